//! How far behind in time the slowest replica is, told from positions in the log.
//!
//! The server's own measure, `replay_lag`, comes with a replica's replies, and stands still while none come. But where
//! the log ended at each look is known here: a position that is not replayed yet is at least as old as the look that
//! met it, and no older than the look before.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Positions kept; at one a second, an hour's.
const KEPT: usize = 3600;

/// Where the end of the log was at each look.
#[derive(Debug, Default)]
pub(in crate::rekey::engine) struct Lag(VecDeque<(Instant, u64)>);

impl Lag {
    /// One look: the log ends at `end`, the slowest replica has replayed up to `replayed`, and is behind by `reported`
    /// if the server is right.
    pub(in crate::rekey::engine) fn look(
        &mut self,
        now: Instant,
        end: u64,
        replayed: u64,
        reported: Option<Duration>,
    ) -> Duration {
        self.0.push_back((now, end));
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
        let Some(first) = self.0.iter().position(|&(_, position)| position > replayed) else {
            return Duration::ZERO;
        };
        let least = now - self.0[first].0;
        let most = first.checked_sub(1).map_or(Duration::MAX, |before| now - self.0[before].0);
        reported.unwrap_or(least).clamp(least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_as_far_behind_as_what_it_has_not_replayed_is_old() {
        let (start, mut lag) = (Instant::now(), Lag::default());
        let second = Duration::from_secs(1);
        let mut look = |at, end, replayed, reported: Option<u32>| {
            lag.look(start + second * at, end, replayed, reported.map(|seconds| second * seconds)).as_secs()
        };
        assert_eq!(look(0, 100, 100, None), 0);
        assert_eq!(look(1, 200, 200, None), 0);
        assert_eq!(look(2, 300, 250, None), 0, "behind, by less than can be seen");
        assert_eq!(look(5, 300, 250, None), 3, "stuck: no reply, and it grows all the same");
        assert_eq!(look(6, 400, 250, Some(1)), 4, "a report that stands still");
        assert_eq!(look(7, 500, 300, Some(9)), 2, "a report of what is replayed by now");
        assert_eq!(look(8, 500, 500, Some(9)), 0);
    }

    #[test]
    fn what_was_behind_from_the_start_is_as_old_as_the_server_says() {
        let (start, mut lag) = (Instant::now(), Lag::default());
        let seconds = Duration::from_secs;
        assert_eq!(lag.look(start, 100, 50, Some(seconds(7))), seconds(7));
        assert_eq!(lag.look(start + seconds(3), 100, 50, None), seconds(3));
    }
}
