//! The way to an authority over HTTP: blocking, one request at a time, over a connection that is kept.
//!
//! A link turns a request into an answer or into one of a few errors that the loop branches on; it never retries on its own,
//! except once with a bearer signed anew when the authority says that time or history were wrong. It holds no state that a new
//! link would miss. Redirects are not followed: an authority does not move, and a captive portal does nothing else.

mod error;
#[cfg(test)]
mod tests;
mod watch;

pub use error::LinkError;
pub use watch::{WatchEvent, WatchStop, WatchStream};

use crate::identity::Identity;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use syncline_core::{EnrolRequest, EnrolResponse, ErrorBody, HistoryId, Limits, SyncRequest, SyncResponse, frame};
use ureq::http::{Response, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

const MESSAGEPACK: &str = "application/vnd.syncline";
/// Finding the host and connecting to it, each.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept: less than an authority does (60 s), so that no request meets a closing one.
const IDLE: Duration = Duration::from_secs(45);
/// An error's body is a few lines.
const ERROR_BYTES_MAX: u64 = 64 * 1024;

/// How to reach an authority.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Whether plain HTTP may be spoken beyond this machine.
    pub allow_insecure: bool,
    /// Certificates (PEM) to trust instead of the public ones, for an operator's own authority.
    pub ca_pem: Option<Vec<u8>>,
    /// How long no byte may come or go. The authority's event streams are never silent for more than 15 s.
    pub stall: Duration,
    /// What an answer may be.
    pub limits: Limits,
}

impl Default for LinkOptions {
    fn default() -> Self {
        LinkOptions { allow_insecure: false, ca_pem: None, stall: Duration::from_secs(20), limits: Limits::default() }
    }
}

/// An answer and what it cost, HTTP headers aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange<T> {
    /// The answer.
    pub answer: T,
    /// Bytes of the request's body, twice if it was sent twice.
    pub bytes_up: u64,
    /// Bytes of the answer's body.
    pub bytes_down: u64,
}

/// A device's link to an authority.
#[derive(Debug)]
pub struct HttpLink {
    base: String,
    agent: Agent,
    options: LinkOptions,
    identity: Identity,
    history: HistoryId,
    /// The authority's clock minus this device's, as far as it mattered yet. In seconds.
    clock_offset_s: i64,
}

impl HttpLink {
    /// Makes a link to the authority at `url` for an enrolled device. Does not connect. Fails with `Url` where the address is none,
    /// or is plain HTTP to another machine.
    pub fn new(url: &str, identity: Identity, history: HistoryId, options: LinkOptions) -> Result<HttpLink, LinkError> {
        let base = check_url(url, &options)?;
        let agent = make_agent(&base, &options)?;
        Ok(HttpLink { base, agent, options, identity, history, clock_offset_s: 0 })
    }

    /// Enrols a device at the authority at `url`. Safe to repeat with the same request until an answer comes.
    pub fn enrol(url: &str, options: &LinkOptions, request: &EnrolRequest) -> Result<EnrolResponse, LinkError> {
        let base = check_url(url, options)?;
        let body = encode(request)?;
        let post = make_agent(&base, options)?.post(format!("{base}/v1/devices")).header(header::CONTENT_TYPE, MESSAGEPACK);
        let (answer, _) = read_message(post.send(&body[..]), &options.limits)?;
        Ok(answer)
    }

    /// Sends one request and returns its answer. A push in it is safe to repeat after any error.
    pub fn sync(&mut self, request: &SyncRequest) -> Result<Exchange<SyncResponse>, LinkError> {
        let body = encode(request)?;
        let bytes_up = body.len() as u64;
        match self.sync_once(&body) {
            Err(e) if self.learn(&e) => {
                let (answer, bytes_down) = self.sync_once(&body)?;
                Ok(Exchange { answer, bytes_up: 2 * bytes_up, bytes_down })
            }
            first => first.map(|(answer, bytes_down)| Exchange { answer, bytes_up, bytes_down }),
        }
    }

    /// Opens the stream of wakes. Blocks until the authority answers, at most as long as a stall.
    pub fn watch(&mut self) -> Result<WatchStream, LinkError> {
        match self.watch_once() {
            Err(e) if self.learn(&e) => self.watch_once(),
            first => first,
        }
    }

    fn sync_once(&self, body: &[u8]) -> Result<(SyncResponse, u64), LinkError> {
        let post = self.agent.post(format!("{}/v1/sync", self.base));
        let post = post.header(header::CONTENT_TYPE, MESSAGEPACK).header(header::AUTHORIZATION, self.authorization());
        read_message(post.send(body), &self.options.limits)
    }

    fn watch_once(&self) -> Result<WatchStream, LinkError> {
        // Its own agent: stopping the stream shuts the agent down, and a sync must not notice.
        let agent = make_agent(&self.base, &self.options)?;
        let response = agent.get(format!("{}/v1/watch", self.base)).header(header::AUTHORIZATION, self.authorization()).call();
        let response = check(response?, "text/event-stream")?;
        Ok(WatchStream::new(response, agent))
    }

    fn authorization(&self) -> String {
        format!("Bearer {}", self.identity.bearer(self.history, unix_s().saturating_add(self.clock_offset_s)))
    }

    /// Takes over the time and history that the authority wants a bearer to be signed for; `true` if that changes anything, so
    /// that a second try makes sense. The device's own clock is left alone, and may be years off.
    fn learn(&mut self, error: &LinkError) -> bool {
        let LinkError::Api(ErrorBody { code, details: Some(details), .. }) = error else { return false };
        let Some((ms, history)) = details.split_once(' ') else { return false };
        let (Ok(ms), Some(history)) = (ms.parse::<i64>(), HistoryId::parse(history)) else { return false };
        let offset_s = ms.div_euclid(1000).saturating_sub(unix_s());
        let news = history != self.history || offset_s.abs_diff(self.clock_offset_s) > 60;
        (self.history, self.clock_offset_s) = (history, offset_s);
        code == "unauthorized" && news
    }
}

fn unix_s() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs() as i64,
        Err(before) => -(before.duration().as_secs() as i64),
    }
}

/// Returns the URL without a slash at the end, if it is one that may be spoken to.
fn check_url(url: &str, options: &LinkOptions) -> Result<String, LinkError> {
    let bad = |why: &str| LinkError::Url { url: url.into(), why: why.into() };
    let uri: Uri = url.parse().map_err(|_| bad("it is not a URL; write it like https://sync.example.org"))?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("it names no host; write it like https://sync.example.org"))?;
    if uri.query().is_some() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(bad("a server's address has no user, password or query; leave them out"));
    }
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if is_loopback(host) || options.allow_insecure => {}
        Some("http") => return Err(bad("plain http would show everything to the network; use https, or allow it explicitly in a network you trust")),
        _ => return Err(bad("only https:// and http:// are spoken")),
    }
    Ok(url.trim_end_matches('/').to_owned())
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || address(host).is_some_and(|address| address.is_loopback())
}

/// Returns the address that a host is, if it is a number.
fn address(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

fn make_agent(base: &str, options: &LinkOptions) -> Result<Agent, LinkError> {
    let mut tls = TlsConfig::builder();
    if let Some(pem) = &options.ca_pem {
        let certificates: Vec<Certificate> = parse_pem(pem)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        if certificates.is_empty() {
            return Err(LinkError::Url { url: base.into(), why: "the file of trusted certificates has none; name a PEM file".into() });
        }
        tls = tls.root_certs(RootCerts::from(certificates.into_iter()));
    }
    let host = base.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    // A numeric address has nothing to look up; a time limit would cost a thread for each request all the same.
    let resolve = host.as_deref().and_then(address).is_none().then_some(CONNECT);
    // Every header costs its bytes on each sync, so those that say nothing to an authority are not sent.
    let mut config = Agent::config_builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent("")
        .accept("")
        .accept_encoding("")
        .max_idle_age(IDLE)
        .timeout_resolve(resolve)
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(options.stall))
        .timeout_per_write(Some(options.stall));
    if host.is_some_and(|host| is_loopback(&host)) {
        // A proxy of the environment cannot reach this machine's own server.
        config = config.proxy(None);
    }
    Ok(config.build().into())
}

fn encode<T: serde::Serialize>(message: &T) -> Result<Vec<u8>, LinkError> {
    frame::encode(message).map_err(|e| LinkError::Protocol(e.to_string()))
}

fn read_message<T: serde::de::DeserializeOwned>(response: Result<Response<Body>, ureq::Error>, limits: &Limits) -> Result<(T, u64), LinkError> {
    let mut response = check(response?, MESSAGEPACK)?;
    let bytes = response.body_mut().with_config().limit(limits.wire_bytes as u64).read_to_vec()?;
    let message = frame::decode(&bytes, limits).map_err(|e| LinkError::Protocol(e.to_string()))?;
    Ok((message, bytes.len() as u64))
}

/// Returns the response if it is a success of the expected kind; reads the authority's error if it is one.
fn check(mut response: Response<Body>, kind: &str) -> Result<Response<Body>, LinkError> {
    let status = response.status().as_u16();
    let found = response.body().mime_type().unwrap_or("").to_ascii_lowercase();
    if status == 200 && found == kind {
        return Ok(response);
    }
    if status >= 400 && found == "application/json" {
        let bytes = response.body_mut().with_config().limit(ERROR_BYTES_MAX).read_to_vec()?;
        if let Ok(body) = serde_json::from_slice::<ErrorBody>(&bytes) {
            return Err(LinkError::Api(body));
        }
    }
    // A gateway before the authority speaks for itself, and such states pass.
    if matches!(status, 429 | 502..=504) {
        return Err(LinkError::Offline(format!("a gateway before the server answers with status {status}")));
    }
    Err(LinkError::NotSyncline(match status {
        300..=399 => format!("it redirects elsewhere (status {status})"),
        _ => format!("it answers with status {status} and `{}`", found.chars().take(60).collect::<String>()),
    }))
}
