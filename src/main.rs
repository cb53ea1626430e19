//! The `reseal` command: what was typed becomes what is meant, what is meant is done, and the result is an exit code.

mod cli;
mod config;

use std::{io::Write, panic, process::ExitCode};

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use cli::Exit;

fn main() -> ExitCode {
    harden();
    let exit = panic::catch_unwind(|| {
        let typed = cli::typed(std::env::args_os())?;
        let meant = cli::meant(typed)?;
        Ok::<_, Exit>(cli::done(&meant))
    });
    // The hook has said where; the status of a panic, 101, is no part of the contract.
    ExitCode::from(exit.map_or(Exit::Failed, |result| result.unwrap_or_else(|exit| exit)))
}

/// Keeps keys out of core dumps, out of reach of a debugger under the same account, and out of panic messages.
fn harden() {
    // Best effort: a system that refuses either is no reason to refuse the work.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        // A message that was put together at run time could hold anything.
        let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(message withheld)");
        drop(writeln!(std::io::stderr(), "error: reseal has a bug, at {place}: {message}"));
    }));
}
