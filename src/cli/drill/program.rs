//! This very program, in processes of its own: started, killed, and asked for its answer.

use std::{
    env,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::time::sleep;

use crate::cli::Fault;

/// The database, in the drill's folder.
pub(super) const DATABASE: &str = "tenants.db";

/// How often a process is asked whether it has ended.
pub(super) const POLL: Duration = Duration::from_millis(5);

/// The program, as it is typed in the drill's folder.
pub(super) struct Program {
    binary: PathBuf,
    folder: PathBuf,
}

impl Program {
    pub(super) fn new(folder: &Path) -> Result<Self, Fault> {
        let binary = env::current_exe().map_err(|error| not_run(&error))?;
        Ok(Self { binary, folder: folder.to_owned() })
    }

    /// Starts it with these arguments, and with nothing of our own environment: keys are named by files in the folder.
    pub(super) fn start(&self, words: &[&str]) -> Result<Running, Fault> {
        let child = Command::new(&self.binary)
            .args(words)
            .current_dir(&self.folder)
            .env_clear()
            .env("DATABASE_URL", format!("sqlite://{}", DATABASE))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| not_run(&error))?;
        Ok(Running { child, command: words.first().copied().unwrap_or_default().to_owned() })
    }

    /// Runs it to its end.
    pub(super) async fn run(&self, words: &[&str]) -> Result<Ended, Fault> {
        let mut running = self.start(words)?;
        while !running.has_ended()? {
            sleep(POLL).await;
        }
        running.end()
    }
}

/// A process that may still run; killed when it is dropped.
pub(super) struct Running {
    child: Child,
    command: String,
}

impl Running {
    pub(super) fn has_ended(&mut self) -> Result<bool, Fault> {
        Ok(self.child.try_wait().map_err(|error| not_run(&error))?.is_some())
    }

    /// `kill -9`: it can't finish, release or say anything.
    pub(super) fn kill(mut self) -> Result<(), Fault> {
        self.child.kill().and_then(|()| self.child.wait()).map(drop).map_err(|error| not_run(&error))
    }

    /// What it said, once it has ended. It says little: the pipes have room for all of it.
    pub(super) fn end(mut self) -> Result<Ended, Fault> {
        let read = |pipe: Option<&mut dyn Read>| {
            let mut text = String::new();
            pipe.map_or(Ok(0), |pipe| pipe.read_to_string(&mut text)).map_err(|error| not_run(&error))?;
            Ok::<_, Fault>(text)
        };
        let code = self.child.wait().map_err(|error| not_run(&error))?.code();
        let out = read(self.child.stdout.as_mut().map(|pipe| pipe as &mut dyn Read))?;
        let err = read(self.child.stderr.as_mut().map(|pipe| pipe as &mut dyn Read))?;
        let answer = serde_json::from_str(&out).unwrap_or_default();
        Ok(Ended { command: std::mem::take(&mut self.command), code, answer, err })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails for one that has ended, which is as well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// How a process ended.
pub(super) struct Ended {
    command: String,
    code: Option<i32>,
    answer: Value,
    err: String,
}

impl Ended {
    /// The same, if it ended with one of these exit codes.
    pub(super) fn exits(self, codes: &[i32]) -> Result<Self, Fault> {
        if self.code.is_some_and(|code| codes.contains(&code)) {
            return Ok(self);
        }
        let code =
            self.code.map_or_else(|| "by a signal".to_owned(), |code| format!("with exit code {code}"));
        let last = self.err.lines().find(|line| line.starts_with("error: ")).unwrap_or("it said nothing");
        Err(Fault::failed(format!("reseal {} ended {code}: {last}", self.command)))
    }

    /// A number of its answer, by its JSON pointer (RFC 6901).
    pub(super) fn number(&self, pointer: &str) -> Result<i64, Fault> {
        self.answer.pointer(pointer).and_then(Value::as_i64).ok_or_else(|| {
            Fault::failed(format!("the answer of reseal {} has no number {pointer}", self.command))
        })
    }

    /// The sum of an object of numbers.
    pub(super) fn sum(&self, pointer: &str) -> Result<i64, Fault> {
        let object = self.answer.pointer(pointer).and_then(Value::as_object).ok_or_else(|| {
            Fault::failed(format!("the answer of reseal {} has no object {pointer}", self.command))
        })?;
        Ok(object.values().filter_map(Value::as_i64).sum())
    }
}

fn not_run(error: &io::Error) -> Fault {
    Fault::failed(format!("cannot run reseal in a process of its own: {}", error.kind()))
}
