//! So many rows a second, evenly: a state machine whose clock is an argument.

use std::{
    num::NonZero,
    time::{Duration, Instant},
};

/// Rows a second.
pub(super) type RowsPerSecond = NonZero<u32>;

/// A part of a row that is only the rounding of times.
const ROUNDING: f64 = 1e-3;

/// Rows that were booked, and how far the clock has come with them. Idle time saves up nothing, so there are no bursts.
///
/// A booking is a position in the row of all rows; its turn comes when the clock has passed every row before it. So a
/// rate that changes is felt by those who wait already.
#[derive(Debug)]
pub(in crate::rekey::engine) struct Pace {
    booked: f64,
    passed: f64,
    at: Instant,
    rate: Option<RowsPerSecond>,
}

/// A place among the rows.
#[derive(Debug, Clone, Copy)]
pub(in crate::rekey::engine) struct Ticket(f64);

impl Pace {
    pub(in crate::rekey::engine) fn new(now: Instant) -> Self {
        Self { booked: 0.0, passed: 0.0, at: now, rate: None }
    }

    /// Books `rows` behind all that were booked before.
    pub(in crate::rekey::engine) fn book(
        &mut self,
        rows: usize,
        now: Instant,
        rate: Option<RowsPerSecond>,
    ) -> Ticket {
        self.advance(now, rate);
        let ticket = Ticket(self.booked);
        self.booked += f64::from(u32::try_from(rows).unwrap_or(u32::MAX));
        ticket
    }

    /// How long the ticket's rows have to wait; `None` when it is their turn.
    pub(in crate::rekey::engine) fn wait(
        &mut self,
        ticket: Ticket,
        now: Instant,
        rate: Option<RowsPerSecond>,
    ) -> Option<Duration> {
        self.advance(now, rate);
        let ahead = ticket.0 - self.passed;
        let rate = rate.filter(|_| ahead > ROUNDING)?;
        Some(Duration::from_secs_f64(ahead / f64::from(rate.get())))
    }

    /// Moves the clock on at the rate that held until now, and no further than what was booked; from here on it goes at
    /// `rate`.
    fn advance(&mut self, now: Instant, rate: Option<RowsPerSecond>) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        let passed = self.rate.map_or(f64::MAX, |rate| self.passed + elapsed * f64::from(rate.get()));
        self.passed = if rate.is_none() { self.booked } else { passed.min(self.booked) };
        (self.at, self.rate) = (now, rate);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Lets callers book one after the other, each as soon as it may; gives when how many rows were written.
    fn write(batches: &[(usize, u64)], rate: RowsPerSecond) -> Vec<(f64, usize)> {
        let start = Instant::now();
        let (mut now, mut pace, mut written) = (start, Pace::new(start), Vec::new());
        for &(rows, idle_ms) in batches {
            now += Duration::from_millis(idle_ms);
            let ticket = pace.book(rows, now, Some(rate));
            while let Some(wait) = pace.wait(ticket, now, Some(rate)) {
                now += wait;
            }
            written.push(((now - start).as_secs_f64(), rows));
        }
        written
    }

    proptest! {
        /// From one batch to any later one, the rows written in between are at most the rate times the time: all but
        /// the last batch, which is what the first batch's turn was to the window before.
        #[test]
        fn no_window_holds_more_than_the_rate(
            batches in vec((1_usize..500, 0_u64..400), 2..60),
            rate in 1_u32..5000,
        ) {
            let written = write(&batches, NonZero::new(rate).unwrap());
            for (first, (start, _)) in written.iter().enumerate() {
                let mut rows = 0;
                for (end, batch) in &written[first..] {
                    let most = (end - start) * f64::from(rate);
                    prop_assert!(f64::from(u32::try_from(rows).unwrap()) <= most + 2.0 * ROUNDING);
                    rows += batch;
                }
            }
        }

        /// Who is never idle gets what the rate allows.
        #[test]
        fn a_busy_writer_gets_the_whole_rate(batches in vec(1_usize..500, 20..60), rate in 1_u32..500) {
            let batches = batches.into_iter().map(|rows| (rows, 0)).collect::<Vec<_>>();
            let written = write(&batches, NonZero::new(rate).unwrap());
            let (seconds, last) = written[written.len() - 1];
            let rows: usize = batches.iter().map(|(rows, _)| rows).sum::<usize>() - last;
            let due = f64::from(u32::try_from(rows).unwrap()) / f64::from(rate);
            prop_assert!(seconds <= due * 1.01 + 0.1, "{seconds} s for {due} s' worth");
        }
    }

    #[test]
    fn those_who_wait_feel_a_new_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let slow = NonZero::new(10);
        let (first, second) = (pace.book(100, start, slow), pace.book(100, start, slow));
        assert_eq!(pace.wait(first, start, slow), None);
        assert_eq!(pace.wait(second, start, slow), Some(Duration::from_secs(10)));
        let later = start + Duration::from_secs(1);
        assert_eq!(pace.wait(second, later, NonZero::new(90)), Some(Duration::from_secs(1)));
        assert_eq!(pace.wait(second, later, None), None);
    }
}
