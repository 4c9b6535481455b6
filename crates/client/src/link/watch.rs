//! The authority's stream of wakes, read line by line. It says "scope S is at n"; data comes by sync.

use super::LinkError;
use std::io::{BufRead, BufReader, Read};
use syncline_core::{ScopeId, Seq};
use ureq::http::Response;
use ureq::{Agent, Body, BodyReader};

/// A wake is short; a longer line is not one.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// What a stream says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// A scope's head moved. Each scope is also told once at the start.
    Scope {
        /// Which.
        scope: ScopeId,
        /// Where it is now.
        seq: Seq,
    },
    /// The connection lives. Comes at least every 15 s of silence.
    Heartbeat,
}

/// An open stream. `next` blocks until something is said; an error is its last item, and `None` means that the authority ended
/// it. Reading goes on in one thread while `WatchStop` may be used in another.
pub struct WatchStream {
    lines: BufReader<BodyReader<'static>>,
    agent: Agent,
    ended: bool,
}

/// Ends a stream from another thread, also while that is blocked in `next`.
#[derive(Clone)]
pub struct WatchStop(Agent);

impl WatchStop {
    /// Cuts the connection; `next` returns at once.
    pub fn stop(self) {
        self.0.shutdown();
    }
}

impl WatchStream {
    pub(super) fn new(response: Response<Body>, agent: Agent) -> WatchStream {
        let body = response.into_body().into_with_config().limit(u64::MAX).reader();
        WatchStream { lines: BufReader::new(body), agent, ended: false }
    }

    /// Returns what ends this stream.
    pub fn stopper(&self) -> WatchStop {
        WatchStop(self.agent.clone())
    }

    fn read(&mut self) -> Result<Option<WatchEvent>, LinkError> {
        #[derive(serde::Deserialize)]
        struct Wake {
            scope: ScopeId,
            seq: Seq,
        }
        let mut line = Vec::new();
        loop {
            line.clear();
            (&mut self.lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
            match line.last() {
                Some(b'\n') => {}
                None => return Ok(None),
                Some(_) if line.len() as u64 == LINE_BYTES_MAX => return Err(LinkError::Protocol("an event without an end".into())),
                Some(_) => return Ok(None),
            }
            if line[0] == b':' {
                return Ok(Some(WatchEvent::Heartbeat));
            }
            // `event:` lines are all alike, and a kind of event that is not known here has other fields or none.
            if let Some(data) = line.strip_prefix(b"data:")
                && let Ok(Wake { scope, seq }) = serde_json::from_slice(data)
            {
                return Ok(Some(WatchEvent::Scope { scope, seq }));
            }
        }
    }
}

impl Iterator for WatchStream {
    type Item = Result<WatchEvent, LinkError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}
