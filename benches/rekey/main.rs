//! Bulk re-key of a real table, beside a plain `UPDATE` of the same columns of the same table.
//!
//! `cargo bench --bench rekey -- [--rows N] [--rounds N] [--workers N] [--batch N] [--only-postgres | --only-sqlite]
//! [--only NAME,NAME…] [--peers PYTHON] [--foreground] [--cold]`. T1 is one `UPDATE` of both columns in one statement, T2 the
//! same split over two connections; neither does any cryptography. Every round measures each of them once, in turn, on a
//! table made afresh, so that a machine whose speed drifts is the same for all. (Criterion, which `benches/seal.rs`
//! uses, measures one thing after the other.)
//!
//! `--peers` also times the script `benches/peers.py`, run by this Python, and pgcrypto. `--cold` (as root) gives the server
//! 64 MB of buffers and empties the page cache before each measurement. CPU of all others is the server's, on a machine
//! that does nothing else.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a report of timings"
)]

use std::path::PathBuf;

use reseal::rekey::Options;

mod job;
mod measure;
mod postgres;
mod sqlite;
#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "the tests' support serves here too, in part")]
mod support;

/// What the command line asks for.
struct Asked {
    rows: usize,
    rounds: usize,
    options: Options,
    only: Option<String>,
    peers: Option<PathBuf>,
    foreground: bool,
    cold: bool,
}

impl Asked {
    fn new(arguments: &[String]) -> Self {
        let text = |name: &str| {
            let at = arguments.iter().position(|argument| argument == name)?;
            Some(arguments.get(at + 1).unwrap_or_else(|| panic!("{name} needs a value")).clone())
        };
        let has = |name: &str| arguments.iter().any(|argument| argument == name);
        let number = |name: &str| text(name).map(|text| text.parse::<usize>().expect("a number"));
        let defaults = Options::default();
        Self {
            rows: number("--rows").unwrap_or(500_000),
            rounds: number("--rounds").unwrap_or(5),
            options: Options {
                workers: number("--workers").unwrap_or(defaults.workers),
                batch: number("--batch").unwrap_or(defaults.batch),
                ..defaults
            },
            only: text("--only"),
            peers: text("--peers").map(PathBuf::from),
            foreground: has("--foreground"),
            cold: has("--cold"),
        }
    }

    /// Half of the workers: what each of two processes has.
    fn halved(&self) -> Options {
        Options { workers: (self.options.workers / 2).max(1), ..self.options.clone() }
    }

    /// Whether this measurement is wanted.
    fn wants(&self, what: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.split(',').any(|name| name == what))
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let asked = Asked::new(&arguments);
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be had");
    if !has("--only-sqlite") {
        runtime.block_on(postgres::measure(&asked));
    }
    if !has("--only-postgres") {
        runtime.block_on(sqlite::measure(&asked));
    }
    println!("\nPeak resident memory of this process: {} MiB", measure::peak_memory_mib());
}
