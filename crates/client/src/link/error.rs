//! Why a request got no answer.

use std::io::ErrorKind;
use syncline_core::ErrorBody;
use ureq::Timeout as Phase;

/// Why a request got no answer. After each of them work is kept, and a push may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The authority cannot be reached now.
    #[error("offline: {0}; work is kept here and goes when the server can be reached")]
    Offline(String),
    /// The server's name is known to nobody here.
    #[error("offline: the server's name is not found; work is kept here and goes when the server can be reached")]
    NameNotFound,
    /// A gateway before the authority cannot reach it.
    #[error("offline: a gateway before the server answers with status {0}; work is kept here and goes when the server can be reached")]
    Gateway(u16),
    /// A connection was there, and then no byte came or went, or next to none.
    #[error("the connection stalled; work is kept here, try again")]
    Timeout,
    /// The answer was changed on its way, or belongs to an older request.
    #[error("the answer is not the one that the server gave: {0}; work is kept here, try again")]
    Altered(String),
    /// The network wants something first: a page in place of the server, or a redirect.
    #[error("the network answers in place of the server: {0}; sign in to it if it asks for that, work is kept here")]
    Portal(String),
    /// The authority refused.
    #[error("{} ({})", .0.message, .0.code)]
    Api(ErrorBody),
    /// Something else than an authority answers: a wrong address, or no HTTP.
    #[error("what answers there is no Syncline server: {0}; check the address and the network")]
    NotSyncline(String),
    /// The authority's answer is not understood.
    #[error("the server's answer is not understood: {0}; update this app or the server")]
    Protocol(String),
    /// The address cannot be used.
    #[error("the server's address {url} cannot be used: {why}")]
    Url {
        /// The address.
        url: String,
        /// What is wrong, and what to write instead.
        why: String,
    },
}

impl LinkError {
    /// Returns the code that programs branch on.
    pub fn code(&self) -> &str {
        match self {
            LinkError::Api(body) => &body.code,
            LinkError::Offline(_) => "offline",
            LinkError::NameNotFound => "name_not_found",
            LinkError::Gateway(_) => "gateway",
            LinkError::Timeout => "timeout",
            LinkError::Altered(_) => "altered",
            LinkError::Portal(_) => "captive_portal",
            LinkError::NotSyncline(_) => "not_syncline",
            LinkError::Protocol(_) => "protocol",
            LinkError::Url { .. } => "bad_url",
        }
    }

    /// Whether the network is to blame: trying again later, or elsewhere, may help.
    pub fn is_network(&self) -> bool {
        !matches!(self, LinkError::Api(_) | LinkError::Protocol(_) | LinkError::Url { .. })
    }
}

impl From<ureq::Error> for LinkError {
    fn from(e: ureq::Error) -> LinkError {
        use ureq::Error::*;
        match e {
            Timeout(Phase::Resolve | Phase::Connect) => LinkError::Offline("the server does not answer".into()),
            Timeout(_) => LinkError::Timeout,
            HostNotFound => LinkError::NameNotFound,
            Io(e) => e.into(),
            Tls(why) => LinkError::NotSyncline(format!("TLS fails: {why}")),
            Rustls(why) => LinkError::NotSyncline(format!("TLS fails: {why}")),
            ConnectionFailed => LinkError::Offline("the connection failed".into()),
            BodyExceedsLimit(most) => LinkError::Protocol(format!("it has more than {most} bytes")),
            Protocol(why) => LinkError::NotSyncline(format!("it does not speak HTTP: {why}")),
            other => LinkError::Offline(other.to_string()),
        }
    }
}

impl From<std::io::Error> for LinkError {
    fn from(e: std::io::Error) -> LinkError {
        // A body's reader hands the client's own errors through as these.
        if e.get_ref().is_some_and(|inner| inner.is::<ureq::Error>()) {
            return match e.into_inner().map(|inner| inner.downcast::<ureq::Error>()) {
                Some(Ok(inner)) => (*inner).into(),
                _ => LinkError::Offline("the connection broke".into()),
            };
        }
        match e.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => LinkError::Timeout,
            // A name that nobody can look up now comes as this, with the system's words.
            _ if e.to_string().contains("failed to lookup address") => LinkError::NameNotFound,
            ErrorKind::ConnectionRefused => LinkError::Offline("nothing listens at the server's address".into()),
            // What rustls reports of a certificate or a handshake comes as this.
            ErrorKind::InvalidData => LinkError::NotSyncline(format!("TLS fails: {e}")),
            _ => LinkError::Offline(e.to_string()),
        }
    }
}
