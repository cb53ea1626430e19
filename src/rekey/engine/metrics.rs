//! What a process did and does, in the text format that Prometheus reads.
//!
//! Counters are of this process and begin at nothing: those of several processes add up. No label holds a key, a
//! value or anything of a row.

use std::time::Duration;

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};

use super::{Status, Waiting};
use crate::{keyring::kms::Kms, store::Tally};

/// Upper ends of the histogram of batches, in seconds: from a batch in memory to one that met the statement time-out.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// What becomes of a value, as it is counted.
const CLASSES: [&str; 5] = ["rekeyed", "current", "null", "quarantined", "vanished"];

/// The instruments of one process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    rows: IntCounter,
    values: IntCounterVec,
    conflicts: IntCounter,
    kms_calls: IntCounter,
    kms_throttled: IntCounter,
    batches: Histogram,
    workers: IntGauge,
    waiting: IntGaugeVec,
    replica_lag: Gauge,
    lock_waits: IntGauge,
    sweep: IntGauge,
    run_rows: IntGauge,
    run: IntGaugeVec,
}

impl Default for Metrics {
    fn default() -> Self {
        let (all, opts) = (Registry::new(), |name, help| Opts::new(name, help));
        let counter = |name, help| add(&all, IntCounter::with_opts(opts(name, help)));
        let gauge = |name, help| add(&all, IntGauge::with_opts(opts(name, help)));
        let values = Opts::new("reseal_values_total", "Values settled, each once, by what became of it");
        let values = add(&all, IntCounterVec::new(values, &["class"]));
        // Every series is there from the start: a rate over one that comes up later misses its first step.
        CLASSES.iter().for_each(|class| values.with_label_values(&[class]).reset());
        let batches = HistogramOpts::new("reseal_batch_seconds", "Time that the commit of a batch took");
        let lag = Opts::new("reseal_replica_lag_seconds", "Lag of the slowest replica, where it has a limit");
        let waiting = Opts::new("reseal_waiting", "Waits under way, by reason");
        let run = Opts::new("reseal_run_info", "The run");
        Self {
            rows: counter("reseal_rows_total", "Rows dealt with, each once"),
            values,
            conflicts: counter("reseal_conflicts_total", "Writes by others between a read and its commit"),
            kms_calls: counter("reseal_kms_calls_total", "Calls sent to a KMS, repeated ones too"),
            kms_throttled: counter("reseal_kms_throttled_total", "Calls that a KMS refused as too many"),
            batches: add(&all, Histogram::with_opts(batches.buckets(BUCKETS.to_vec()))),
            workers: gauge("reseal_workers", "Workers of this process"),
            waiting: add(&all, IntGaugeVec::new(waiting, &["reason"])),
            replica_lag: add(&all, Gauge::with_opts(lag)),
            lock_waits: gauge("reseal_lock_waits", "Sessions that wait for locks which batches hold"),
            sweep: gauge("reseal_run_sweep", "The sweep under way"),
            run_rows: gauge("reseal_run_rows", "Rows of the table when the run was opened"),
            run: add(&all, IntGaugeVec::new(run, &["run", "target", "state", "version"])),
            registry: all,
        }
    }
}

/// Registers an instrument. Names, labels and buckets are those above.
fn add<T: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<T>) -> T {
    let instrument = made.expect("its name and its labels are legal");
    registry.register(Box::new(instrument.clone())).expect("no other has its name");
    instrument
}

impl Metrics {
    /// Everything, as `status` has it now: text format version 0.0.4.
    pub fn text(&self, status: &Status) -> String {
        for name in Waiting::NAMES {
            let waits = i64::try_from(status.waits_for(name)).unwrap_or(i64::MAX);
            self.waiting.with_label_values(&[name]).set(waits);
        }
        self.run.reset();
        if let Some(run) = &status.run {
            let labels = [&run.run_id, &run.target, run.state.as_str(), env!("CARGO_PKG_VERSION")];
            self.run.with_label_values(&labels).set(1);
            self.sweep.set(run.sweep);
            self.run_rows.set(run.row_count);
        }
        TextEncoder::new().encode_to_string(&self.registry.gather()).expect("a String takes all")
    }

    /// Rows that were dealt with so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows.get()
    }

    /// What a batch that was committed added to the run's counters, after `time`.
    pub(super) fn committed(&self, tally: &Tally, time: Duration) {
        let add = |counter: &IntCounter, by: i64| counter.inc_by(u64::try_from(by).unwrap_or_default());
        add(&self.rows, tally.scanned);
        add(&self.conflicts, tally.conflicts);
        let counts = [tally.rekeyed, tally.current, tally.empty, tally.quarantined, tally.vanished];
        for (class, by) in CLASSES.into_iter().zip(counts) {
            add(&self.values.with_label_values(&[class]), by);
        }
        self.batches.observe(time.as_secs_f64());
    }

    /// What the keys of a KMS count themselves, from their start.
    pub(super) fn kms<'a>(&self, keys: impl Iterator<Item = &'a dyn Kms>) {
        let (mut calls, mut refused) = (0, 0);
        for kms in keys {
            calls += kms.calls();
            // Keys share one quota, and each has all of its counts.
            refused = refused.max(kms.quota().map_or(0, |quota| quota.state().refused));
        }
        self.kms_calls.inc_by(calls.saturating_sub(self.kms_calls.get()));
        self.kms_throttled.inc_by(refused.saturating_sub(self.kms_throttled.get()));
    }

    pub(super) fn workers(&self, workers: usize) {
        self.workers.set(i64::try_from(workers).unwrap_or(i64::MAX));
    }

    /// Workers of this process.
    pub(super) fn present(&self) -> i64 {
        self.workers.get()
    }

    pub(super) fn lock_waits(&self, sessions: u64) {
        self.lock_waits.set(i64::try_from(sessions).unwrap_or(i64::MAX));
    }

    pub(super) fn replica_lag(&self, lag: Duration) {
        self.replica_lag.set(lag.as_secs_f64());
    }
}
