//! Ctrl-c and SIGTERM, for the commands that stay until then.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How soon an interrupt is noticed while nothing else happens.
const LOOK: Duration = Duration::from_millis(100);

/// What a command that stays gets to see.
pub struct Until(Receiver<()>);

impl Until {
    /// Starts to listen for an interrupt.
    pub fn interrupted() -> anyhow::Result<Until> {
        let (tell, told) = channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("interrupt".into()).spawn(move || {
            // Called inside of the runtime: it needs one from the call on, not only from the first poll.
            runtime.block_on(async { syncline_server::http::shutdown_signal().await });
            let _ = tell.send(());
        })?;
        Ok(Until(told))
    }

    /// Waits for the next item; `None` after an interrupt, or when nothing more can come.
    pub fn next<T>(&self, from: &Receiver<T>) -> Option<T> {
        loop {
            match from.recv_timeout(LOOK) {
                Ok(item) => return Some(item),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if self.0.try_recv().is_ok() => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}
