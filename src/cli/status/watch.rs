//! A status that is looked at again and again: drawn in place on a terminal, a line now and then elsewhere.

use std::{
    io::{self, IsTerminal, stdout},
    time::Duration,
};

use reseal::store::Store;
use rustix::termios::tcgetwinsize;
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
            let drawn = canvas.draw(&match &look {
                Ok(Some(look)) => format!("{}\n{}", bar(look.share()), screen::live(look)),
                Ok(None) => format!("{target}: there was no run yet"),
                Err(error) => format!("the database: {}", stdio::shown(&error.to_string())),
            });
            if drawn.is_err() {
                // Nobody looks any more.
                return Ok(());
            }
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
    if terminal {
        // A terminal that is gone has nothing to clear.
        drop(canvas.clear());
    }
    Ok(())
}

fn bar(share: f64) -> String {
    let filled = (1..=40).filter(|&column| f64::from(column) <= share * BAR).count();
    format!("{}{} {:.1} %", "█".repeat(filled), "░".repeat(40 - filled), share * 100.0)
}

/// Lines that are replaced in place, as many and as long as the terminal has room for.
#[derive(Default)]
struct Canvas {
    /// Lines that are there.
    height: usize,
}

impl Canvas {
    /// One write, so that nothing flickers.
    fn draw(&mut self, text: &str) -> io::Result<()> {
        let (columns, rows) = match tcgetwinsize(stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 1 => {
                (size.ws_col.into(), usize::from(size.ws_row) - 1)
            }
            _ => (80, 24),
        };
        let mut screen = self.to_its_top();
        self.height = 0;
        for line in text.lines().take(rows) {
            screen.extend(line.chars().take(columns));
            screen += "\x1b[K\n";
            self.height += 1;
        }
        stdio::answer((screen + "\x1b[J").as_bytes())
    }

    /// Takes everything off the screen.
    fn clear(self) -> io::Result<()> {
        stdio::answer((self.to_its_top() + "\x1b[J").as_bytes())
    }

    /// Moves the cursor.
    fn to_its_top(&self) -> String {
        match self.height {
            0 => String::new(),
            height => format!("\x1b[{height}A\r"),
        }
    }
}
