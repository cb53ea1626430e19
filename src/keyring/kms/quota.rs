//! How fast the calls to one account of a KMS may be: what an operator allows, and what the service turns out to take.
//!
//! A quota is the account's, and other programs live on it too. So all keys of a process share one [`Quota`]; a limit
//! that was set is never exceeded; and where the service refuses calls (throttles), the rate follows what it accepts:
//! additive increase, multiplicative decrease.

use std::{
    num::NonZero,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::sleep_until;

/// What a refusal leaves of the rate; with [`STEP`] the rate is, on average, above 95 % of what the service takes.
const DECREASE: f64 = 0.94;

/// The least that a refusal leaves, when far less is accepted than was asked.
const DEEPEST: f64 = 0.5;

/// What a second of full use adds to the rate, as a share of the rate that was last refused.
const STEP: f64 = 0.01;

/// What is asked for of a limit that was set: calls that left one after the other arrive now and then in a bunch, and
/// one second of the service's clock then holds some of the next one's.
const EVEN: f64 = 0.985;

/// How long a decrease has to show before the next: calls that were under way are refused too.
const PATIENCE: Duration = Duration::from_millis(500);

/// The lowest rate, in calls a second: one that still finds out that there is more.
const FLOOR: f64 = 1.0;

/// The rate of calls to one account, shared by every key of a process.
#[derive(Debug, Default)]
pub struct Quota(Mutex<Rate>);

/// How a [`Quota`] stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuotaState {
    /// The rate that calls are held to, in calls a second; `None` while nothing limits them.
    pub calls_per_second: Option<f64>,
    /// Whether it is the service that set it, by refusing calls.
    pub throttled: bool,
    /// Calls that the service refused so far for being too many.
    pub refused: u64,
    /// Calls that waited for their turn so far.
    pub delayed: u64,
}

impl Quota {
    /// At most so many calls a second; `None` leaves it to the service.
    pub fn new(limit: Option<NonZero<u32>>) -> Self {
        let limit = limit.map(|limit| f64::from(limit.get()));
        Self(Mutex::new(Rate { limit, ..Rate::default() }))
    }

    /// How it stands now.
    pub fn state(&self) -> QuotaState {
        let rate = self.rate();
        QuotaState {
            calls_per_second: rate.current(),
            throttled: rate.found.is_some_and(|found| Some(found) == rate.current()),
            refused: rate.refused,
            delayed: rate.delayed,
        }
    }

    /// Waits for a turn to call. A turn that is not used is lost.
    pub(super) async fn turn(&self) {
        let now = Instant::now();
        let turn = self.rate().turn(now);
        if turn > now {
            sleep_until(turn.into()).await;
        }
    }

    /// A call was answered.
    pub(super) fn accepted(&self) {
        self.rate().accepted(Instant::now());
    }

    /// A call was refused for being one too many.
    pub(super) fn refused(&self) {
        self.rate().refused(Instant::now());
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state machine; the time is an argument.
#[derive(Debug, Default)]
struct Rate {
    /// What the operator allows.
    limit: Option<f64>,
    /// What the service was found to take, once it refused a call.
    found: Option<f64>,
    /// The rate that was last refused.
    ceiling: f64,
    /// When the next call may go.
    next: Option<Instant>,
    cut: Option<Instant>,
    answers: Recent,
    refused: u64,
    delayed: u64,
}

impl Rate {
    fn current(&self) -> Option<f64> {
        match (self.limit, self.found) {
            (Some(limit), Some(found)) => Some(limit.min(found)),
            (limit, found) => limit.or(found),
        }
    }

    /// When a call that comes now may go. Turns are evenly spaced, and those that nobody took are not saved up: no
    /// window of time holds more than the rate.
    fn turn(&mut self, now: Instant) -> Instant {
        let Some(rate) = self.current() else { return now };
        let rate = if Some(rate) == self.limit { rate * EVEN } else { rate };
        let turn = self.next.map_or(now, |next| next.max(now));
        self.next = Some(turn + Duration::from_secs_f64(1.0 / rate));
        if turn > now {
            self.delayed += 1;
        }
        turn
    }

    fn accepted(&mut self, now: Instant) {
        self.answers.add(now);
        let in_demand = self.next.is_some_and(|next| next > now);
        if let Some(found) = self.found.as_mut().filter(|_| in_demand) {
            *found += self.ceiling * STEP / *found;
        }
    }

    fn refused(&mut self, now: Instant) {
        self.refused += 1;
        if self.cut.is_some_and(|cut| now < cut + PATIENCE) {
            return;
        }
        self.cut = Some(now);
        let answered = self.answers.a_second(now);
        let (ceiling, left) = match self.current() {
            None => (answered, answered * DECREASE),
            Some(rate) => (rate, answered.clamp(rate * DEEPEST, rate * DECREASE)),
        };
        self.ceiling = ceiling.max(FLOOR);
        self.found = Some(left.max(FLOOR));
    }
}

/// How many answers came within the last second, to a tenth.
#[derive(Debug, Default)]
struct Recent {
    /// The tenth of a second that the last count is for, from the first answer.
    tenth: u128,
    since: Option<Instant>,
    counts: [u32; 10],
}

impl Recent {
    fn add(&mut self, now: Instant) {
        let here = self.forget(now);
        self.counts[here] += 1;
    }

    fn a_second(&mut self, now: Instant) -> f64 {
        self.forget(now);
        f64::from(self.counts.iter().sum::<u32>())
    }

    /// Drops the counts of tenths that are over a second ago; gives the place of the one that it is now.
    fn forget(&mut self, now: Instant) -> usize {
        let since = *self.since.get_or_insert(now);
        let tenth = now.saturating_duration_since(since).as_millis() / 100;
        for old in self.tenth + 1..=tenth.min(self.tenth + 10) {
            self.counts[place(old)] = 0;
        }
        self.tenth = self.tenth.max(tenth);
        place(self.tenth)
    }
}

fn place(tenth: u128) -> usize {
    usize::try_from(tenth % 10).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use proptest::prelude::*;

    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    /// A service that takes `quota` calls in any second of its clock and refuses the others, and `callers` that
    /// call again as soon as they have an answer, which takes `latency`.
    struct Simulation {
        rate: Rate,
        quota: u32,
        callers: usize,
        latency: Duration,
    }

    #[derive(Debug, Default, Clone, Copy)]
    struct Served {
        accepted: u32,
        refused: u32,
        /// The most that came within one second of the service's clock.
        most: u32,
    }

    impl Simulation {
        /// What was served from `from` to `to`, in seconds from the start.
        fn run(mut self, from: u64, to: u64) -> Served {
            let start = Instant::now();
            let mut served = Served::default();
            let (mut second, mut taken, mut came) = (0, 0, 0);
            // When which caller is next, and what it does then: its call arrives, or it asks for a turn.
            let mut events = (0..self.callers)
                .map(|caller| Reverse((start + MICROSECOND * u32::try_from(caller).unwrap(), caller, false)))
                .collect::<BinaryHeap<_>>();
            while let Some(Reverse((now, caller, calls))) = events.pop() {
                let at = (now - start).as_secs();
                if at >= to {
                    break;
                }
                if !calls {
                    events.push(Reverse((self.rate.turn(now), caller, true)));
                    continue;
                }
                if at > second {
                    (second, taken, came) = (at, 0, 0);
                }
                let accepted = taken < self.quota;
                came += 1;
                if accepted {
                    taken += 1;
                    self.rate.accepted(now);
                } else {
                    self.rate.refused(now);
                }
                if at >= from {
                    served.accepted += u32::from(accepted);
                    served.refused += u32::from(!accepted);
                    served.most = served.most.max(came);
                }
                events.push(Reverse((now + self.latency, caller, false)));
            }
            served
        }
    }

    fn limited(limit: u32) -> Rate {
        Rate { limit: Some(f64::from(limit)), ..Rate::default() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However calls come, from any turn to a later one there are at most as many as the rate allows that time,
        /// and the one at its end.
        #[test]
        fn no_window_holds_more_than_the_limit(
            limit in 1_u32..5000,
            gaps in proptest::collection::vec(0_u64..2_000_000, 2..200),
        ) {
            let (mut now, mut rate, mut turns) = (Instant::now(), limited(limit), Vec::new());
            for gap in gaps {
                now += Duration::from_micros(gap);
                turns.push(rate.turn(now));
            }
            for (first, start) in turns.iter().enumerate() {
                for (calls, end) in turns[first..].iter().enumerate() {
                    let allowed = (*end - *start).as_secs_f64() * f64::from(limit);
                    prop_assert!(f64::from(u32::try_from(calls).unwrap()) <= allowed + 1e-3);
                }
            }
        }

        /// With the limit at the account's quota nothing is refused, and nearly all of it is used.
        #[test]
        fn a_limit_is_used_and_never_exceeded(
            quota in 5_u32..2000,
            callers in 8_usize..64,
            latency_ms in 1_u64..20,
        ) {
            prop_assume!(f64::from(u32::try_from(callers).unwrap()) * 1000.0 > f64::from(quota) * 21.0);
            let latency = Duration::from_millis(latency_ms);
            let simulation = Simulation { rate: limited(quota), quota, callers, latency };
            let served = simulation.run(0, 20);
            prop_assert!(served.most <= quota + 1, "{served:?}");
            // At a boundary of the service's clock one call may fall to the other side.
            prop_assert!(served.refused <= 20, "{served:?}");
            prop_assert!(f64::from(served.accepted) >= 0.95 * f64::from(quota * 20), "{served:?}");
        }

        /// Calls that take up to 10 ms to arrive, some longer than others, keep within the limit in every second of the
        /// service's clock.
        #[test]
        fn calls_that_arrive_in_a_bunch_keep_within_the_limit(
            limit in 200_u32..2000,
            delays in proptest::collection::vec(0_u64..10_000, 4000),
        ) {
            let (start, mut rate) = (Instant::now(), limited(limit));
            let mut came = std::collections::BTreeMap::<u64, u32>::new();
            for delay in delays {
                let arrival = rate.turn(start) + Duration::from_micros(delay);
                *came.entry((arrival - start).as_secs()).or_default() += 1;
            }
            prop_assert!(came.values().all(|&calls| calls <= limit), "{came:?}");
        }

        /// Without a limit the rate finds the quota: it uses 95 % of it, and hardly any call is refused.
        #[test]
        fn the_quota_is_found(quota in 20_u32..2000, callers in 16_usize..64, latency_ms in 1_u64..10) {
            prop_assume!(f64::from(u32::try_from(callers).unwrap()) * 1000.0 > f64::from(quota) * 22.0);
            let latency = Duration::from_millis(latency_ms);
            let simulation = Simulation { rate: Rate::default(), quota, callers, latency };
            let served = simulation.run(30, 90);
            prop_assert!(f64::from(served.accepted) >= 0.95 * f64::from(quota * 60), "{served:?}");
            prop_assert!(f64::from(served.refused) <= 0.02 * f64::from(served.accepted), "{served:?}");
        }
    }

    #[test]
    fn nothing_is_held_back_before_the_service_refuses() {
        let (now, mut rate) = (Instant::now(), Rate::default());
        for _ in 0..1000 {
            assert_eq!(rate.turn(now), now);
            rate.accepted(now);
        }
        assert_eq!((rate.current(), rate.delayed), (None, 0));
        rate.refused(now);
        assert_eq!(rate.current(), Some(940.0));
    }

    #[test]
    fn a_service_that_takes_nothing_is_still_asked_once_a_second() {
        let (mut now, mut rate) = (Instant::now(), limited(1000));
        for _ in 0..100 {
            now += Duration::from_secs(1);
            rate.refused(now);
        }
        assert_eq!(rate.current(), Some(FLOOR));
    }
}
