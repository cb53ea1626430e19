//! Who works on a journal, and for how long.
//!
//! The journal itself takes no record from who lost the lease. Providers know nothing of it: that a process calls none of
//! them once another may have taken over is kept here, by ending its work before.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use crate::store::StoreError;

/// How often a holder says that it is there; the lease lasts 20 s.
const RENEWAL: Duration = Duration::from_secs(5);

/// How long after the last renewal work goes on. What is sent at the last moment has the rest of the 20 s to arrive.
const HELD: Duration = Duration::from_secs(15);

/// Who we are, to others who want the lease.
pub(crate) fn holder() -> String {
    let host = rustix::system::uname();
    format!("pid {} on {}", std::process::id(), host.nodename().to_string_lossy())
}

/// Does `work`, for a lease that was claimed or renewed just now, while `renew` says that it is still ours; `None` when it is
/// another's, or may be because it was not renewed for too long. The work is not polled any more then.
pub(crate) async fn while_held<T, R: Future<Output = Result<bool, StoreError>>>(
    work: impl Future<Output = T>,
    renew: impl Fn() -> R,
) -> Option<T> {
    while_renewed(work, renew, RENEWAL, since_boot).await
}

async fn while_renewed<T, R: Future<Output = Result<bool, StoreError>>>(
    work: impl Future<Output = T>,
    renew: impl Fn() -> R,
    every: Duration,
    now: impl Fn() -> Duration,
) -> Option<T> {
    let (renewed, until) = watch::channel(now() + HELD);
    let lost = async {
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let asked = now();
            match timeout(every, renew()).await {
                Ok(Ok(true)) => {
                    renewed.send_replace(asked + HELD);
                }
                Ok(Ok(false)) => return,
                // A database that stumbles or is silent is not a lost lease yet.
                Ok(Err(_)) | Err(_) => {}
            }
        }
    };
    let (mut work, mut lost) = (pin!(work), pin!(lost));
    poll_fn(|cx| match lost.as_mut().poll(cx) {
        Poll::Pending if now() < *until.borrow() => work.as_mut().poll(cx).map(Some),
        _ => Poll::Ready(None),
    })
    .await
}

/// How long the machine has been on, asleep or awake: leases run out while it sleeps.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    };

    use tokio::task::yield_now;

    use super::*;

    /// A clock that goes as the test says.
    #[derive(Default)]
    struct Clock(AtomicU64);

    impl Clock {
        fn pass(&self, seconds: u64) {
            self.0.fetch_add(seconds, Relaxed);
        }

        fn now(&self) -> Duration {
            Duration::from_secs(self.0.load(Relaxed))
        }
    }

    const SOON: Duration = Duration::from_millis(1);

    fn stumbles() -> Result<bool, StoreError> {
        Err(StoreError::NotMigrated)
    }

    /// Work that has no end and whose renewals each take 5 s of the clock: how many there were until it was ended.
    async fn renewals<R: Future<Output = Result<bool, StoreError>>>(answer: impl Fn(usize) -> R) -> usize {
        let (clock, asked) = (Clock::default(), AtomicUsize::new(0));
        let renew = || {
            clock.pass(5);
            answer(asked.fetch_add(1, Relaxed) + 1)
        };
        assert_eq!(while_renewed(pending::<()>(), renew, SOON, || clock.now()).await, None);
        asked.into_inner()
    }

    #[tokio::test]
    async fn work_ends_when_the_lease_may_be_anothers() {
        assert_eq!(renewals(|_| ready(stumbles())).await, 3, "it was not renewed for 15 s");
        assert_eq!(renewals(|_| pending()).await, 3, "one that hangs is given up and asked again");
        assert_eq!(renewals(|_| ready(Ok(false))).await, 1, "it is another's");
        // The tenth was sent at 45 s, so it holds to 60 s; when it was answered does not count.
        assert_eq!(renewals(|count| ready(if count > 10 { stumbles() } else { Ok(true) })).await, 12);
    }

    #[tokio::test]
    async fn work_that_ends_in_time_gives_its_result() {
        let clock = Clock::default();
        let work = async {
            for _ in 0..14 {
                clock.pass(1);
                yield_now().await;
            }
            "done"
        };
        assert_eq!(while_renewed(work, || ready(Ok(true)), RENEWAL, || clock.now()).await, Some("done"));
    }

    /// A machine that was suspended: no renewal was due by the clock that stood still.
    #[tokio::test]
    async fn work_is_not_polled_after_a_sleep() {
        let (clock, polls) = (Clock::default(), AtomicUsize::new(0));
        let work = async {
            loop {
                if polls.fetch_add(1, Relaxed) + 1 == 3 {
                    clock.pass(15);
                }
                yield_now().await;
            }
        };
        let ended: Option<()> = while_renewed(work, || ready(Ok(true)), RENEWAL, || clock.now()).await;
        assert_eq!((ended, polls.into_inner()), (None, 3));
    }

    #[test]
    fn the_clock_is_the_one_that_does_not_stop() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!((since_boot().as_secs_f64() - seconds).abs() < 5.0);
    }
}
