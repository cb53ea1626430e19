//! A line for each step, on standard error.

use std::{
    io::{IsTerminal, Write, stderr},
    sync::Mutex,
};

use reseal::rotation::{
    Progress,
    state::{Course, Event},
};

use crate::cli::stdio;

/// Where the lines go. At a terminal the step that is under way has one too, until it ends.
pub(super) struct Screen {
    terminal: bool,
    /// Whether the last line is not ended.
    open: Mutex<bool>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { terminal: stderr().is_terminal(), open: Mutex::new(false) }
    }

    /// Shows a step that begins, or ended.
    pub(super) fn show(&self, progress: &Progress) {
        let line = line(progress);
        if progress.event != Event::Intended {
            self.clear();
            stdio::note(format_args!("{line}"));
        } else if self.terminal {
            self.clear();
            let mut stderr = stderr().lock();
            drop(write!(stderr, "{line}").and_then(|()| stderr.flush()));
            self.set_open(true);
        }
    }

    /// Takes the line of the step that is under way off the screen, for something else to be written.
    pub(super) fn clear(&self) {
        if self.set_open(false) {
            drop(write!(stderr().lock(), "\r\x1b[K"));
        }
    }

    /// What it was before.
    fn set_open(&self, open: bool) -> bool {
        let mut guard = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::replace(&mut guard, open)
    }
}

fn line(progress: &Progress) -> String {
    let back = progress.course == Course::Back;
    let what = match progress.event {
        Event::Intended if back => "taking it back…",
        Event::Intended => "…",
        Event::Succeeded => "done",
        Event::Undone => "taken back",
        Event::NotDone => "not done yet",
        Event::Unknown => "nobody knows whether it was done",
        Event::Failed => "failed",
        Event::Parked => "waits",
        Event::Resumed | Event::Aborted => "goes on",
    };
    let note = progress.note.as_ref().map_or_else(String::new, |note| format!(": {}", stdio::shown(note)));
    format!("[{:>2}/{}] {} {what}{note}", progress.number, progress.of, progress.step.name)
}
