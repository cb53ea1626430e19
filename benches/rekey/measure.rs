//! Seconds, and who spent CPU in them.

use std::{
    fs,
    time::{Duration, Instant},
};

/// One measurement.
#[derive(Clone, Copy)]
struct Sample {
    elapsed: Duration,
    /// Microseconds a row.
    own_cpu: f64,
    others_cpu: f64,
}

/// What was measured, round by round, in the order of its first round.
#[derive(Default)]
pub(crate) struct Times(Vec<(&'static str, Vec<Sample>)>);

impl Times {
    /// Measures `work` on `rows` rows.
    pub(crate) async fn measure(&mut self, what: &'static str, rows: usize, work: impl Future<Output = ()>) {
        let (own, all, started) = (own_cpu(), all_cpu(), Instant::now());
        work.await;
        let elapsed = started.elapsed();
        let a_row = |cpu: Duration| cpu.as_secs_f64() * 1e6 / rows as f64;
        let own = own_cpu().saturating_sub(own);
        let (own_cpu, others_cpu) = (a_row(own), a_row(all_cpu().saturating_sub(all + own)));
        let seconds = elapsed.as_secs_f64();
        eprintln!(
            "{what:10} {seconds:6.2} s; CPU a row: {own_cpu:.1} µs ours, {others_cpu:.1} µs all others'"
        );
        self.add(what, Sample { elapsed, own_cpu, others_cpu });
    }

    /// The last measurement of `what` was of one row in `share`: it counts as often.
    pub(crate) fn scale(&mut self, what: &str, share: u32) {
        let samples = self.0.iter_mut().find(|(name, _)| *name == what);
        if let Some(sample) = samples.and_then(|(_, samples)| samples.last_mut()) {
            sample.elapsed *= share;
        }
    }

    fn add(&mut self, what: &'static str, sample: Sample) {
        match self.0.iter_mut().find(|(name, _)| *name == what) {
            Some((_, samples)) => samples.push(sample),
            None => self.0.push((what, vec![sample])),
        }
    }

    fn of(&self, what: &str) -> &[Sample] {
        self.0.iter().find(|(name, _)| *name == what).map_or(&[], |(_, samples)| samples)
    }

    /// A table of medians. The ratio to `base` is the median of the rounds' own ratios: a machine whose speed drifts is
    /// the same for both sides of each.
    pub(crate) fn report(&self, rows: usize, base: &str) {
        println!(
            "| what | seconds | rows/s | × {base} | CPU a row, ours | all others' |\n|---|---|---|---|---|---|"
        );
        for (what, samples) in &self.0 {
            let seconds = median(samples.iter().map(|sample| sample.elapsed.as_secs_f64()));
            let (own, others) = (
                median(samples.iter().map(|sample| sample.own_cpu)),
                median(samples.iter().map(|sample| sample.others_cpu)),
            );
            let rounds = samples.iter().zip(self.of(base));
            let ratio =
                median(rounds.map(|(what, base)| what.elapsed.as_secs_f64() / base.elapsed.as_secs_f64()));
            let speed = rows as f64 / seconds;
            println!("| {what} | {seconds:.2} | {speed:.0} | {ratio:.2} | {own:.1} µs | {others:.1} µs |");
        }
    }
}

/// The middle one; the upper of two.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// CPU time of this process so far.
fn own_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    ticks(fields.filter_map(|field| field.parse::<u64>().ok()).sum())
}

/// CPU time of the whole machine so far: user, nice, system, interrupts.
fn all_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let fields: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    ticks([0, 1, 2, 5, 6].iter().filter_map(|&field| fields.get(field)).sum())
}

/// Linux counts CPU time in hundredths of a second.
fn ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 10)
}

/// The most memory that this process ever had resident.
pub(crate) fn peak_memory_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1024
}
