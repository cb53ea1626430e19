//! How a run is shown while it works: a bar on a terminal, a line now and then elsewhere.
//!
//! The counters are read from the database, so that they are those of all processes together.

use std::{
    collections::VecDeque,
    io::{IsTerminal, stderr},
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reseal::{
    rekey::{Status, Waiting},
    store::{Store, StoreError},
};
use serde_json::json;
use tokio::{sync::watch, time::interval};

use super::{Output, stdio};

/// How often a terminal is redrawn.
const REDRAW: Duration = Duration::from_secs(1);

/// How often a line is written elsewhere.
const LINE: Duration = Duration::from_secs(5);

/// How far back the rate looks.
const WINDOW: Duration = Duration::from_secs(30);

/// Shows the run until nothing sends to `status` any more.
pub(super) async fn show(store: Arc<dyn Store>, mut status: watch::Receiver<Status>, output: Output) {
    let terminal = output == Output::Human && stderr().is_terminal();
    let bar = terminal.then(bar);
    let mut ticks = interval(if terminal { REDRAW } else { LINE });
    // The first tick is at once: there is nothing to show yet.
    ticks.tick().await;
    let mut pace = Pace::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = status.wait_for(|_| false) => break,
        }
        let now = status.borrow().clone();
        // While the database is in trouble its reason is all there is to show.
        let Some(seen) = look(store.as_ref(), &now, &mut pace).await.ok().flatten() else {
            if let (Some(bar), Some(waiting)) = (&bar, now.waiting()) {
                bar.set_message(format!("waiting: {}", in_words(waiting)));
            }
            continue;
        };
        match (&bar, output) {
            (Some(bar), _) => {
                bar.set_length(u64::try_from(seen.row_count).unwrap_or_default());
                bar.set_position(u64::try_from(seen.rows).unwrap_or_default());
                bar.set_message(seen.details());
            }
            (None, Output::Human) => stdio::note(format_args!(
                "{} of {} rows, {}",
                stdio::commas(seen.rows),
                stdio::commas(seen.row_count),
                seen.details()
            )),
            (None, Output::Json) => stdio::note(format_args!("{}", seen.json())),
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24} {human_pos} of {human_len} rows, {wide_msg}")
        .expect("the template is well formed");
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style)
}

/// One look at a run.
struct Seen {
    sweep: i64,
    rows: i64,
    row_count: i64,
    quarantined: i64,
    conflicts: i64,
    rows_per_second: f64,
    waiting: Option<String>,
    note: Option<String>,
}

/// A reason to wait, and what would end it where that is the operator's to do.
fn in_words(waiting: &Waiting) -> String {
    match waiting {
        Waiting::Paused { since_ms, .. } => {
            format!("{waiting} since {}; reseal resume", stdio::time(*since_ms))
        }
        other => stdio::shown(&other.to_string()),
    }
}

async fn look(store: &dyn Store, now: &Status, pace: &mut Pace) -> Result<Option<Seen>, StoreError> {
    let Some(run) = &now.run else { return Ok(None) };
    let run = store.run(&run.run_id).await?;
    let sweep = store.tally(&run.run_id, Some(run.sweep)).await?;
    let all = store.tally(&run.run_id, None).await?;
    Ok(Some(Seen {
        sweep: run.sweep,
        rows: sweep.scanned,
        row_count: run.row_count,
        quarantined: all.quarantined,
        conflicts: all.conflicts,
        rows_per_second: pace.rate(all.scanned),
        waiting: now.waiting().map(in_words),
        note: now.note.clone(),
    }))
}

impl Seen {
    /// Only a first sweep counts its rows.
    fn seconds_left(&self) -> Option<f64> {
        if self.sweep > 1 {
            return None;
        }
        let left = u32::try_from(self.row_count - self.rows).ok()?;
        (self.rows_per_second > 0.0).then(|| f64::from(left) / self.rows_per_second)
    }

    fn details(&self) -> String {
        let left = self.seconds_left().map(|seconds| format!("{} left, ", stdio::duration(seconds)));
        let waiting = self.waiting.as_ref().map(|waiting| format!(", waiting: {waiting}"));
        let note = self.note.as_ref().map(|note| format!(" ({note})"));
        format!(
            "{:.0} rows/s, {}sweep {}, {} in quarantine, {} conflicts{}{}",
            self.rows_per_second,
            left.unwrap_or_default(),
            self.sweep,
            stdio::commas(self.quarantined),
            stdio::commas(self.conflicts),
            waiting.unwrap_or_default(),
            note.unwrap_or_default()
        )
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "sweep": self.sweep,
            "rows": self.rows,
            "row_count": self.row_count,
            "rows_per_second": self.rows_per_second.round(),
            "seconds_left": self.seconds_left().map(f64::round),
            "quarantined": self.quarantined,
            "conflicts": self.conflicts,
            "waiting": self.waiting,
            "note": self.note,
        })
    }
}

/// Rows a second over the last half minute.
#[derive(Default)]
struct Pace(VecDeque<(Instant, i64)>);

impl Pace {
    fn rate(&mut self, scanned: i64) -> f64 {
        let now = Instant::now();
        self.0.push_back((now, scanned));
        while self.0.len() > 2 && self.0.front().is_some_and(|(then, _)| now - *then > WINDOW) {
            self.0.pop_front();
        }
        let Some((then, before)) = self.0.front() else { return 0.0 };
        let rows = f64::from(u32::try_from(scanned - before).unwrap_or_default());
        let seconds = (now - *then).as_secs_f64();
        if seconds > 0.0 { rows / seconds } else { 0.0 }
    }
}
