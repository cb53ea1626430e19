//! A run as it is shown while it works: a bar at a terminal, a line for each tenant that ends or parks elsewhere.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reseal::{
    reprovision::{Phase, Progress},
    store::SagaState,
    time::about,
};

use super::tally::seconds;
use crate::cli::stdio::{note, shown};

/// Where it is shown.
pub(super) struct Screen {
    bar: Option<ProgressBar>,
    seen: Mutex<Seen>,
}

/// What was seen of the tenants.
struct Seen {
    begun: Instant,
    total: u64,
    /// Those that were at their end before this process.
    before: u64,
    ended: u64,
    parked: u64,
    under_way: HashMap<String, Phase>,
}

impl Screen {
    pub(super) fn new() -> Self {
        // No terminal, or one where nothing can be drawn over.
        let bar = (!ProgressDrawTarget::stderr().is_hidden()).then(|| {
            let style =
                ProgressStyle::with_template("{bar:24} {human_pos} of {human_len} tenants, {wide_msg}")
                    .expect("the template is well formed");
            ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden()).with_style(style)
        });
        let seen = Seen {
            begun: Instant::now(),
            total: 0,
            before: 0,
            ended: 0,
            parked: 0,
            under_way: HashMap::new(),
        };
        Self { bar, seen: Mutex::new(seen) }
    }

    /// From here on there is something to show: so many tenants, and so many of them at their end.
    pub(super) fn begin(&self, total: u64, before: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.begun, seen.total, seen.before) = (Instant::now(), total, before);
        if let Some(bar) = &self.bar {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.set_length(total);
            bar.set_position(before);
        }
    }

    /// Shows what happened to a tenant.
    pub(super) fn show(&self, progress: &Progress) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.take(progress);
        let line = seen.line(progress);
        if let Some(bar) = &self.bar {
            bar.set_position(seen.before + seen.ended);
            bar.set_message(seen.message());
        }
        match line {
            // Of the tenants that are well the bar says enough.
            Some(line) if progress.why.is_some() || self.bar.is_none() => self.note(&line),
            _ => {}
        }
    }

    /// Writes a line above the bar.
    pub(super) fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(format_args!("{line}"))),
            None => note(format_args!("{line}")),
        }
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Seen {
    fn take(&mut self, progress: &Progress) {
        match progress.state {
            SagaState::Running => drop(self.under_way.insert(progress.tenant.clone(), progress.phase)),
            SagaState::Waiting => {}
            ended => {
                self.under_way.remove(&progress.tenant);
                let count = if ended == SagaState::Parked { &mut self.parked } else { &mut self.ended };
                *count += 1;
            }
        }
    }

    fn left(&self) -> u64 {
        self.total.saturating_sub(self.before + self.ended + self.parked)
    }

    /// From the pace so far; `None` before there is one.
    fn time_left(&self) -> Option<Duration> {
        let finished = u32::try_from(self.ended + self.parked).ok().filter(|finished| *finished > 0)?;
        let left = u32::try_from(self.left()).ok()?;
        Some(self.begun.elapsed() / finished * left)
    }

    fn time_left_in_words(&self) -> String {
        let left = self.time_left().map(|left| u32::try_from(left.as_secs()).unwrap_or(u32::MAX));
        let left = left.filter(|left| *left > 0).map(about);
        left.map_or_else(String::new, |left| format!(", about {left} left"))
    }

    fn message(&self) -> String {
        let mut phases = BTreeMap::<Phase, usize>::new();
        self.under_way.values().for_each(|phase| *phases.entry(*phase).or_default() += 1);
        let phases: Vec<_> =
            phases.iter().map(|(phase, count)| format!("{count} {}", phase.as_str())).collect();
        let phases = if phases.is_empty() { String::new() } else { format!(" ({})", phases.join(", ")) };
        let parked = if self.parked == 0 { String::new() } else { format!(", {} parked", self.parked) };
        let waiting = self.left().saturating_sub(u64::try_from(self.under_way.len()).unwrap_or(u64::MAX));
        format!(
            "{} under way{phases}{parked}, {waiting} waiting{}",
            self.under_way.len(),
            self.time_left_in_words()
        )
    }

    /// What there is to say of a tenant by itself.
    fn line(&self, progress: &Progress) -> Option<String> {
        let (tenant, phase) = (shown(&progress.tenant), progress.phase.as_str());
        let why = progress.why.as_deref().map(shown);
        let what = match (progress.state, why) {
            (SagaState::Done, _) => {
                let down = progress.downtime_ms.map(|ms| format!(", down for {}", seconds(ms)));
                format!("done{}", down.unwrap_or_default())
            }
            (SagaState::Gone, _) => "gone: its row was deleted".to_owned(),
            (SagaState::Parked, why) => format!("parked in {phase}: {}", why.unwrap_or_default()),
            (SagaState::Running, Some(why)) => return Some(format!("{tenant}: in {phase}: {why}")),
            (SagaState::Running | SagaState::Waiting, _) => return None,
        };
        let finished = self.before + self.ended + self.parked;
        Some(format!("[{finished}/{}] {tenant}: {what}{}", self.total, self.time_left_in_words()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(tenant: &str, state: SagaState, phase: Phase, why: Option<&str>) -> Progress {
        Progress {
            tenant: tenant.to_owned(),
            phase,
            state,
            why: why.map(str::to_owned),
            downtime_ms: (state == SagaState::Done).then_some(9500),
        }
    }

    #[test]
    fn each_tenant_that_ends_has_a_line_and_the_others_a_place_in_the_bar() {
        let mut seen = Seen {
            begun: Instant::now(),
            total: 6,
            before: 1,
            ended: 0,
            parked: 0,
            under_way: HashMap::new(),
        };
        let mut line = |tenant, state, phase, why| {
            let progress = progress(tenant, state, phase, why);
            seen.take(&progress);
            (seen.line(&progress), seen.message())
        };
        let (running, _) = line("a", SagaState::Running, Phase::Look, None);
        assert_eq!(running, None);
        line("b", SagaState::Running, Phase::Launch, None);
        let (_, message) = line("c", SagaState::Running, Phase::Launch, None);
        assert_eq!(message, "3 under way (1 look, 2 launch), 2 waiting");
        let (done, _) = line("a", SagaState::Done, Phase::Death, None);
        assert!(done.unwrap().starts_with("[2/6] a: done, down for 9.5 s"));
        let (parked, message) = line("b", SagaState::Parked, Phase::Launch, Some("no\u{1b} room"));
        assert!(parked.unwrap().starts_with("[3/6] b: parked in launch: no\\u{1b} room"));
        assert!(message.starts_with("1 under way (1 launch), 1 parked, 2 waiting"), "{message}");
        let (again, _) = line("c", SagaState::Running, Phase::Launch, Some("busy"));
        assert_eq!(again.unwrap(), "c: in launch: busy");
    }
}
