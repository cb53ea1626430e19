//! Pacing.

use std::time::Duration;

use tokio::{sync::Mutex, time::Instant};

/// Holds all workers of a process together to so many rows a second, evenly, without bursts.
#[derive(Debug)]
pub(super) struct Throttle {
    rows_per_second: Option<u32>,
    next: Mutex<Instant>,
}

impl Throttle {
    pub(super) fn new(rows_per_second: Option<u32>) -> Self {
        Self { rows_per_second, next: Mutex::new(Instant::now()) }
    }

    /// Waits until `rows` more rows may be written.
    pub(super) async fn admit(&self, rows: usize) {
        let Some(rate) = self.rows_per_second else { return };
        let span =
            Duration::from_secs_f64(f64::from(u32::try_from(rows).unwrap_or(u32::MAX)) / f64::from(rate));
        let turn = {
            let mut next = self.next.lock().await;
            let turn = (*next).max(Instant::now());
            *next = turn + span;
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}
