//! A status that is looked at again and again: drawn in place on a terminal, a line now and then elsewhere.

use std::{
    io::{IsTerminal, stdout},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use reseal::store::Store;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    super::{Fault, Output, signals::Signals, stdio},
    look::Look,
    screen,
};

/// How often a terminal is redrawn.
const REDRAW: Duration = Duration::from_secs(1);

/// How often a line is written elsewhere.
const LINE: Duration = Duration::from_secs(5);

/// Columns of the bar.
const BAR: f64 = 40.0;

/// Shows the latest run of `target` until it is over, or somebody presses Ctrl-C. Trouble with the database is shown
/// like anything else: it may pass.
pub(super) async fn watch(store: &dyn Store, target: &str, output: Output) -> Result<(), Fault> {
    let mut signals = Signals::install()?;
    let terminal = output == Output::Human && stdout().is_terminal();
    let mut canvas = Canvas::default();
    let mut ticks = interval(if terminal { REDRAW } else { LINE });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = signals.next() => break,
        }
        let look = Look::at(store, target).await;
        if matches!(&look, Ok(Some(look)) if !look.run.state.is_open()) {
            break;
        }
        if terminal {
            canvas.draw(&match &look {
                Ok(Some(look)) => format!("{}\n{}", bar(look.share()), screen::live(look)),
                Ok(None) => format!("{target}: there was no run yet"),
                Err(error) => format!("the database: {}", stdio::shown(&error.to_string())),
            });
            continue;
        }
        let line = match (&look, output) {
            (Ok(Some(look)), Output::Json) => screen::document(look).to_string(),
            (Ok(Some(look)), Output::Human) => screen::line(look),
            (Ok(None), _) => continue,
            (Err(error), _) => {
                stdio::note(format_args!("the database: {}", stdio::shown(&error.to_string())));
                continue;
            }
        };
        if stdio::answer(format!("{line}\n").as_bytes()).is_err() {
            // Nobody reads any more.
            break;
        }
    }
    canvas.clear();
    Ok(())
}

fn bar(share: f64) -> String {
    let filled = (1..=40).filter(|&column| f64::from(column) <= share * BAR).count();
    format!("{}{} {:.1} %", "█".repeat(filled), "░".repeat(40 - filled), share * 100.0)
}

/// Lines that are replaced in place, each cut to the terminal's width.
#[derive(Default)]
struct Canvas {
    lines: Vec<ProgressBar>,
    multi: Option<MultiProgress>,
}

impl Canvas {
    fn draw(&mut self, text: &str) {
        let multi =
            self.multi.get_or_insert_with(|| MultiProgress::with_draw_target(ProgressDrawTarget::stdout()));
        let texts = text.lines().collect::<Vec<_>>();
        while self.lines.len() < texts.len() {
            let style = ProgressStyle::with_template("{wide_msg}").expect("the template is well formed");
            self.lines.push(multi.add(ProgressBar::new_spinner().with_style(style)));
        }
        for line in self.lines.drain(texts.len()..) {
            line.finish_and_clear();
            multi.remove(&line);
        }
        for (line, text) in self.lines.iter().zip(texts) {
            line.set_message(text.to_owned());
            line.tick();
        }
    }

    /// Takes everything off the screen.
    fn clear(self) {
        if let Some(multi) = self.multi {
            // The terminal is gone: there is nothing to clear.
            drop(multi.clear());
        }
    }
}
