//! How the drill is told: numbered acts on standard output, plain where nobody watches.

use std::{
    env, fmt,
    io::{IsTerminal, stdout},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::stdio;

/// Tells the acts in order.
pub(super) struct Story {
    colours: bool,
    acts: u32,
}

impl Story {
    pub(super) fn new() -> Self {
        // https://no-color.org: set, and not empty.
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colours: stdout().is_terminal() && !unwanted, acts: 0 }
    }

    /// Begins the next act.
    pub(super) fn act(&mut self, title: &str) {
        self.acts += 1;
        let heading = self.styled("1", format_args!("{}  {title}", self.acts));
        line(format_args!("\n{heading}"));
    }

    /// Shows a command, as it could be typed in the drill's folder.
    pub(super) fn typed(&self, words: &[&str]) {
        line(format_args!("   {}", self.styled("36", format_args!("$ reseal {}", words.join(" ")))));
    }

    /// A sentence of the act.
    pub(super) fn say(&self, sentence: fmt::Arguments<'_>) {
        line(format_args!("   {sentence}"));
    }

    /// A line that belongs to no act.
    pub(super) fn aside(&self, text: fmt::Arguments<'_>) {
        line(text);
    }

    /// The good end.
    pub(super) fn held(&self, sentence: fmt::Arguments<'_>) {
        line(format_args!("\n{}", self.styled("1;32", sentence)));
    }

    /// A bar on standard error, of `rows`; invisible where that is no terminal.
    pub(super) fn bar(&self) -> ProgressBar {
        let style = ProgressStyle::with_template("   [{bar:40}] {human_pos} of {human_len} rows")
            .expect("the template is well formed")
            .progress_chars("#>.");
        ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style)
    }

    /// `text` with an SGR attribute (ECMA-48, section 8.3.117), where there are colours.
    fn styled(&self, attribute: &str, text: fmt::Arguments<'_>) -> String {
        if self.colours { format!("\x1b[{attribute}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// That nobody reads on is no reason to stop half way.
fn line(text: fmt::Arguments<'_>) {
    drop(stdio::answer(format!("{text}\n").as_bytes()));
}
