//! One task a process, however many workers it has: about once a second it says what the process does, hears what was
//! ordered, looks at what the database has to bear, and gives the workers their directions.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    Step, Stop, Waiting,
    directions::Directions,
    retry::patiently,
    throttle::{Courtesy, Lag},
    waiting::Wait,
    workshop::Workshop,
};
use crate::store::{Heartbeat, Pressure, Replicas, StoreError};

/// How often. An order has reached every worker within two of these, and the batch under way.
const TICK: Duration = Duration::from_secs(1);

/// How many ticks back the rate looks.
const WINDOW: usize = 10;

/// What is remembered from look to look.
pub(super) struct Attendant {
    shop: Arc<Workshop>,
    /// Ends the process's work.
    stop: Arc<watch::Sender<Stop>>,
    run_id: String,
    process: String,
    courtesy: Courtesy,
    lag: Lag,
    rows: VecDeque<(Instant, u64)>,
    delayed: u64,
}

impl Attendant {
    /// The first look: from here on the process is seen, and does as is ordered.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn begin(
        shop: Arc<Workshop>,
        stop: Arc<watch::Sender<Stop>>,
        run_id: String,
        process: String,
    ) -> Result<Self, StoreError> {
        let rows = VecDeque::from([(Instant::now(), 0)]);
        let (courtesy, lag) = (Courtesy::default(), Lag::default());
        let mut attendant = Self { shop, stop, run_id, process, courtesy, lag, rows, delayed: 0 };
        let status = &attendant.shop.status;
        let heartbeat = attendant.heartbeat();
        let beat = || attendant.shop.job.store.beat(&attendant.run_id, &heartbeat);
        let run = attendant.shop.job.at(Step::Beat, patiently(status, beat)).await?;
        let mut directions = Directions::new(&attendant.shop.job.options, &run.orders);
        if attendant.shop.job.options.max_replica_lag.is_some() {
            let pressure = patiently(status, || attendant.shop.job.store.pressure()).await?;
            directions.hold = attendant.hold(&pressure);
        }
        attendant.shop.directions.send_replace(directions);
        Ok(attendant)
    }

    /// Looks again and again. Trouble with the database is the workers' to tell: orders stay as they were.
    pub(super) async fn attend(mut self) {
        let shop = Arc::clone(&self.shop);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut locks, mut quota) = (None, None);
        loop {
            ticks.tick().await;
            shop.metrics.kms(shop.job.opener.kms().iter().map(AsRef::as_ref));
            show(&shop, &mut quota, self.kms_quota());
            if shop.directions.borrow().paused.is_some() {
                self.rows.clear();
            }
            self.rows.push_back((Instant::now(), shop.metrics.rows()));
            if self.rows.len() > WINDOW {
                self.rows.pop_front();
            }
            let Ok((directions, waiting)) = self.look().await else { continue };
            show(&shop, &mut locks, waiting);
            shop.directions.send_if_modified(|now| {
                let changed = *now != directions;
                *now = directions;
                changed
            });
        }
    }

    async fn look(&mut self) -> Result<(Directions, Option<Waiting>), StoreError> {
        let (job, store) = (&self.shop.job, &self.shop.job.store);
        let run = store.beat(&self.run_id, &self.heartbeat()).await?;
        let pressure = store.pressure().await?;
        if !run.state.is_open() {
            // Somebody ended it: who waits for leave to write must not get it.
            self.stop.send_replace(Stop::AfterBatch);
        }
        let mut directions = Directions::new(&job.options, &run.orders);
        self.shop.status.send_modify(|status| status.run = Some(run));
        directions.hold = self.hold(&pressure);
        let asked = directions.batch;
        self.courtesy = self.courtesy.look(pressure.lock_waits, asked);
        directions.batch = self.courtesy.batch(asked);
        let waiting = self
            .courtesy
            .yields()
            .then_some(Waiting::LockWaits { sessions: pressure.lock_waits, batch: directions.batch });
        Ok((directions, waiting))
    }

    /// Why nothing may be written now, as far as replicas go.
    fn hold(&mut self, pressure: &Pressure) -> Option<Waiting> {
        self.shop.metrics.lock_waits(pressure.lock_waits);
        let most = self.shop.job.options.max_replica_lag?;
        let note = (pressure.replicas == Replicas::None)
            .then(|| "no replica is connected, so the limit on their lag holds nothing back".to_owned());
        let lag = match pressure.replicas {
            Replicas::None => Some(Duration::ZERO),
            Replicas::Hidden => None,
            Replicas::Behind { end, replayed, reported } => {
                Some(self.lag.look(Instant::now(), end, replayed, reported))
            }
        };
        lag.into_iter().for_each(|lag| self.shop.metrics.replica_lag(lag));
        self.shop.status.send_if_modified(|status| {
            let changed = status.note != note;
            status.note = note;
            changed
        });
        match lag {
            None => Some(Waiting::ReplicaLagUnknown),
            Some(lag) => (lag > most).then_some(Waiting::ReplicaLag { lag, most }),
        }
    }

    /// Whether calls to a KMS had to wait since the last look.
    fn kms_quota(&mut self) -> Option<Waiting> {
        let quota = self.shop.job.opener.kms().iter().find_map(|kms| kms.quota())?.state();
        let delayed = std::mem::replace(&mut self.delayed, quota.delayed) < quota.delayed;
        let calls_per_second = quota.calls_per_second.filter(|_| delayed)?;
        Some(Waiting::KmsQuota { calls_per_second, throttled: quota.throttled })
    }

    fn heartbeat(&self) -> Heartbeat {
        let status = self.shop.status.borrow();
        Heartbeat {
            process: self.process.clone(),
            workers: self.shop.metrics.present(),
            rows_per_second: self.rate(),
            waiting: status.waiting().map(ToString::to_string),
        }
    }

    /// Rows a second over the last ticks.
    fn rate(&self) -> i64 {
        let (Some((then, before)), Some((now, rows))) = (self.rows.front(), self.rows.back()) else {
            return 0;
        };
        let milliseconds = (*now - *then).as_millis();
        let rate = u128::from(rows - before) * 1000 / milliseconds.max(1);
        i64::try_from(rate).unwrap_or(i64::MAX)
    }
}

/// Shows a reason, another one, or none.
fn show<'a>(shop: &'a Workshop, shown: &mut Option<Wait<'a>>, reason: Option<Waiting>) {
    match (&shown, reason) {
        (_, None) => *shown = None,
        (Some(wait), Some(reason)) => wait.because(reason),
        (None, Some(reason)) => *shown = Some(Wait::begin(&shop.status, reason)),
    }
}
