//! The way to an authority over HTTP: blocking, one request at a time, over a connection that is kept.
//!
//! A link turns a request into an answer or into one of a few errors that the loop branches on; it never retries on its own,
//! except once with a bearer signed anew when the authority says that time or history were wrong. It holds no state that a new
//! link would miss. Redirects are not followed: an authority does not move, and a captive portal does nothing else.

mod api;
mod error;
mod parts;
#[cfg(test)]
mod tests;
mod watch;

pub use api::{Method, fresh_key, path_part};
pub use error::LinkError;
pub use parts::MissingParts;
pub use watch::{WatchEvent, WatchStop, WatchStream};

use crate::identity::Identity;
use std::io::Read;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use syncline_core::seal::{self, Seal};
use syncline_core::{EnrolRequest, EnrolResponse, ErrorBody, HistoryId, Limits, Schema, SyncRequest, SyncResponse, frame};
use ureq::http::{Response, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

const MESSAGEPACK: &str = "application/vnd.syncline";
/// Finding the host and connecting to it, each.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept: less than an authority does (60 s), so that no request meets a closing one.
const IDLE: Duration = Duration::from_secs(45);
/// A connection that brings less than this in three stalls is dead, however often it brings a byte.
const BYTES_MIN: usize = 6 * 1024;
/// A body may take a second for each of so many bytes on its way up.
const UP_BYTES_PER_S: u64 = 1024;
/// An error's body is a few lines.
const ERROR_BYTES_MAX: u64 = 64 * 1024;

/// How to reach an authority.
///
/// ```
/// use syncline::{Options, link::LinkOptions};
/// let link = LinkOptions { stall: std::time::Duration::from_secs(60), ..LinkOptions::default() };
/// let options = Options { link, ..Options::default() };
/// assert!(!options.link.allow_insecure);
/// ```
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
    /// Bytes of the last answer's body, also where it broke off.
    received: u64,
    parts: parts::Parts,
}

impl HttpLink {
    /// Makes a link to the authority at `url` for an enrolled device. Does not connect. Fails with `Url` where the address is none,
    /// or is plain HTTP to another machine.
    pub fn new(url: &str, identity: Identity, history: HistoryId, options: LinkOptions) -> Result<HttpLink, LinkError> {
        let base = check_url(url, &options)?;
        let agent = make_agent(&base, &options)?;
        Ok(HttpLink { base, agent, options, identity, history, clock_offset_s: 0, received: 0, parts: parts::Parts::default() })
    }

    /// Enrols a device at the authority at `url`. Safe to repeat with the same request until an answer comes.
    pub fn enrol(url: &str, options: &LinkOptions, request: &EnrolRequest) -> Result<EnrolResponse, LinkError> {
        let base = check_url(url, options)?;
        let body = encode(request)?;
        let post = Post { agent: &make_agent(&base, options)?, url: format!("{base}/v1/devices"), kind: MESSAGEPACK, authorization: "", options, until: None };
        Ok(post.send(&body, &mut 0)?.0)
    }

    /// Sends one request and returns its answer. A push in it is safe to repeat after any error.
    pub fn sync(&mut self, request: &SyncRequest) -> Result<Exchange<SyncResponse>, LinkError> {
        self.sync_until(request, None)
    }

    /// The same, given up with `Timeout` when it is not done at `until`.
    pub fn sync_until(&mut self, request: &SyncRequest, until: Option<Instant>) -> Result<Exchange<SyncResponse>, LinkError> {
        let body = self.parts.encode(request)?;
        let bytes_up = body.len() as u64;
        match self.sync_once(&body, until) {
            Err(e) if self.learn(&e) => {
                let (answer, bytes_down) = self.sync_once(&body, until)?;
                Ok(Exchange { answer, bytes_up: 2 * bytes_up, bytes_down })
            }
            first => first.map(|(answer, bytes_down)| Exchange { answer, bytes_up, bytes_down }),
        }
    }

    /// Takes a schema to the authority; returns the authority's afterwards. Safe to repeat.
    pub fn push_schema(&mut self, schema: &Schema) -> Result<Schema, LinkError> {
        let body = encode(schema)?;
        match self.push_schema_once(&body) {
            Err(e) if self.learn(&e) => self.push_schema_once(&body),
            first => first,
        }
    }

    fn push_schema_once(&mut self, body: &[u8]) -> Result<Schema, LinkError> {
        let authorization = self.authorization();
        let post = Post {
            agent: &self.agent,
            url: format!("{}/v1/schema", self.base),
            kind: MESSAGEPACK,
            authorization: &authorization,
            options: &self.options,
            until: None,
        };
        Ok(post.send(body, &mut 0)?.0)
    }

    /// Opens the stream of wakes. Blocks until the authority answers, at most as long as a stall.
    pub fn watch(&mut self) -> Result<WatchStream, LinkError> {
        match self.watch_once() {
            Err(e) if self.learn(&e) => self.watch_once(),
            first => first,
        }
    }

    /// Returns how many bytes of the last answer came, also where it broke off: what this network could carry.
    pub fn received(&self) -> u64 {
        self.received
    }

    fn sync_once(&mut self, body: &[u8], until: Option<Instant>) -> Result<(SyncResponse, u64), LinkError> {
        let authorization = self.authorization();
        let url = format!("{}/v1/sync", self.base);
        let post = Post { agent: &self.agent, url, kind: MESSAGEPACK, authorization: &authorization, options: &self.options, until };
        let answer = post.send(body, &mut self.received);
        if matches!(answer, Err(LinkError::Altered(_) | LinkError::Protocol(_) | LinkError::NotSyncline(_) | LinkError::Portal(_))) {
            // What else is on this connection is not to be believed either.
            self.agent = make_agent(&self.base, &self.options)?;
        }
        answer
    }

    fn watch_once(&self) -> Result<WatchStream, LinkError> {
        // Its own agent: stopping the stream shuts the agent down, and a sync must not notice.
        let agent = make_agent(&self.base, &self.options)?;
        let response = agent.get(format!("{}/v1/watch", self.base)).header(header::AUTHORIZATION, self.authorization()).call();
        let response = check(response?, "text/event-stream", None)?;
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

/// One request with a body, sealed, and its answer.
struct Post<'a> {
    agent: &'a Agent,
    url: String,
    kind: &'static str,
    /// Empty where nobody is known yet.
    authorization: &'a str,
    options: &'a LinkOptions,
    until: Option<Instant>,
}

impl Post<'_> {
    fn send<T: serde::de::DeserializeOwned>(self, body: &[u8], received: &mut u64) -> Result<(T, u64), LinkError> {
        *received = 0;
        let number = getrandom::u64().map_err(|e| LinkError::Offline(format!("the system has no random numbers: {e}")))?;
        let patience = 3 * self.options.stall;
        let path = self.url.rfind("/v1/").map_or("", |at| &self.url[at..]);
        let seals = seal::request_header(number, path, self.kind, self.authorization, body);
        let post = self.agent.post(&self.url).config();
        let post = post.timeout_send_body(Some(patience + Duration::from_secs(body.len() as u64 / UP_BYTES_PER_S))).timeout_recv_response(Some(patience));
        // Zero would be no limit.
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        let mut post = post.timeout_global(left).build().header(header::CONTENT_TYPE, self.kind);
        if !self.authorization.is_empty() {
            post = post.header(header::AUTHORIZATION, self.authorization);
        }
        let mut response = check(post.header(seal::REQUEST_HEADER, seals).send(body)?, MESSAGEPACK, Some(number))?;
        let bytes = read_body(&mut response, self.options.limits.wire_bytes as u64, patience, received)?;
        check_seal(&response, number, &bytes)?;
        let message = frame::decode(&bytes, &self.options.limits).map_err(|e| LinkError::Protocol(e.to_string()))?;
        Ok((message, bytes.len() as u64))
    }
}

/// Reads a body that comes at a tolerable speed.
fn read_body(response: &mut Response<Body>, most: u64, patience: Duration, received: &mut u64) -> Result<Vec<u8>, LinkError> {
    let mut from = response.body_mut().with_config().limit(most).reader();
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let (mut since, mut at) = (Instant::now(), 0);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(bytes),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
        *received = bytes.len() as u64;
        if bytes.len() - at >= BYTES_MIN {
            (since, at) = (Instant::now(), bytes.len());
        } else if since.elapsed() > patience {
            return Err(LinkError::Timeout);
        }
    }
}

fn check_seal(response: &Response<Body>, number: u64, body: &[u8]) -> Result<(), LinkError> {
    let mut made = Seal::answer(number, response.status().as_u16());
    made.update(body);
    match response.headers().get(seal::ANSWER_HEADER).map(|given| given.as_bytes() == made.finish().as_bytes()) {
        Some(true) => Ok(()),
        Some(false) => Err(LinkError::Altered("it was changed on its way, or a cache gave an old one".into())),
        None => Err(LinkError::Altered("it bears no seal; something on the way took it off, or made the answer itself".into())),
    }
}

/// Returns the response if it is a success of the expected kind; reads the authority's error if it is one. The answer to a
/// numbered request must be sealed.
fn check(mut response: Response<Body>, kind: &str, number: Option<u64>) -> Result<Response<Body>, LinkError> {
    let status = response.status().as_u16();
    let found = response.body().mime_type().unwrap_or("").to_ascii_lowercase();
    if status == 200 && found == kind {
        return Ok(response);
    }
    if status >= 400 && found == "application/json" {
        let bytes = response.body_mut().with_config().limit(ERROR_BYTES_MAX).read_to_vec()?;
        if let Ok(body) = serde_json::from_slice::<ErrorBody>(&bytes) {
            return match number.map_or(Ok(()), |number| check_seal(&response, number, &bytes)) {
                Ok(()) => Err(LinkError::Api(body)),
                Err(altered) => Err(altered),
            };
        }
    }
    // A gateway before the authority speaks for itself, and such states pass.
    if matches!(status, 429 | 502..=504) {
        return Err(LinkError::Gateway(status));
    }
    let said = match status {
        300..=399 => format!("it redirects elsewhere (status {status})"),
        _ => format!("it answers with status {status} and `{}`", found.chars().take(60).collect::<String>()),
    };
    Err(match status {
        300..=399 | 511 => LinkError::Portal(said),
        200..=299 if found == "text/html" => LinkError::Portal(said),
        _ => LinkError::NotSyncline(said),
    })
}
