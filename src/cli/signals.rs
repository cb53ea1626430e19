//! Ctrl-C and SIGTERM.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Fault;

/// Receives both signals from the moment it is made.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn install() -> Result<Self, Fault> {
        let install =
            |kind| signal(kind).map_err(|error| Fault::failed(format!("cannot listen to signals: {error}")));
        Ok(Self {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// The outcome of work that writes no value, unless a signal comes first.
    pub(super) async fn unless_stopped<T, E: Into<Fault>>(
        &mut self,
        resume: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Fault> {
        tokio::select! {
            done = work => done.map_err(Into::into),
            () = self.next() => Err(Fault::resumable("stopped before this process wrote a value").hint(resume)),
        }
    }
}
