//! The processes that re-key: `reseal run`, started again whenever one ends.

use std::{
    fs::{self, File, OpenOptions},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::world::World;
use crate::support::{fault_proxy::FaultProxy, moto::Moto};

/// Where the processes live: what they are told, and what they say.
pub(super) struct Site {
    folder: TempDir,
    environment: Vec<(String, String)>,
    /// The keys, as flags.
    keys: Vec<String>,
}

/// One of the two.
pub(super) struct Process {
    child: Child,
    number: usize,
    answer: PathBuf,
}

/// How a process ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The run is complete.
    Complete,
    /// By our hand, or so that the same command goes on.
    Resumable,
}

/// What a command said, and how it ended.
pub(super) struct Said {
    code: Option<i32>,
    text: String,
}

impl Said {
    #[track_caller]
    pub(super) fn exits(self, code: i32) {
        assert_eq!(self.code, Some(code), "{}", self.text);
    }
}

impl Site {
    pub(super) fn build(database: &str, proxy: &FaultProxy, world: &World) -> Self {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut environment = vec![set("DATABASE_URL", database), set("OLD_KEY", &world.old_key())];
        for (name, value) in Moto::shared().env() {
            let value = if name == "AWS_ENDPOINT_URL_KMS" { &proxy.url() } else { value };
            environment.push(set(name, value));
        }
        let keys = [
            "--format",
            "v3",
            "--old",
            "static:env:OLD_KEY",
            "--old",
            &world.old_kms,
            "--new",
            &world.new_kms,
        ];
        Self { folder: tempfile::tempdir().unwrap(), environment, keys: keys.map(str::to_owned).to_vec() }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reseal"));
        command
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Starts the process of this number.
    pub(super) fn run(&self, number: usize) -> Process {
        let answer = self.folder.path().join(format!("answer-{number}"));
        let said =
            OpenOptions::new().create(true).append(true).open(self.folder.path().join("said")).unwrap();
        let child = self
            .command()
            .arg("run")
            .args(&self.keys)
            .args(["--batch", "200", "--workers", "4", "--max-rows-per-second", "1500", "--output", "json"])
            .stdout(File::create(&answer).unwrap())
            .stderr(said)
            .spawn()
            .unwrap();
        Process { child, number, answer }
    }

    /// Starts those again that have ended; gives their number.
    pub(super) fn start_again(&self, processes: &mut [Process]) -> u32 {
        let mut count = 0;
        for process in processes {
            if process.ended().is_some() {
                *process = self.run(process.number);
                count += 1;
            }
        }
        count
    }

    /// Types a command and waits for its end.
    pub(super) fn reseal(&self, words: &[&str]) -> Said {
        let output = self.command().args(words).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        Said { code: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() }
    }

    /// The run that finds nothing left.
    pub(super) fn last_sweep(&self) -> Vec<&str> {
        ["run"].into_iter().chain(self.keys.iter().map(String::as_str)).collect()
    }

    /// What the processes said on standard error.
    pub(super) fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("said")).unwrap_or_default()
    }

    pub(super) fn kept_its_secrets(&self, world: &World) {
        let said = self.said();
        for secret in [&*world.old_key(), "postgres://", "rediss://"] {
            assert!(!said.contains(secret), "a secret was said");
        }
    }
}

impl Process {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it was not waited for yet");
    }

    pub(super) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    pub(super) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    pub(super) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// How it ended, if it has. Nothing but trouble with the database or the KMS may end it before its time.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        let Some(code) = self.child.try_wait().unwrap()?.code() else { return Some(Ended::Resumable) };
        let answer = fs::read_to_string(&self.answer).unwrap();
        let document: Value = serde_json::from_str(&answer).unwrap_or_default();
        // One that met trouble before it had joined the run has none to name.
        let has_joined = document["run"].is_string();
        match code {
            0 => Some(Ended::Complete),
            5 => Some(Ended::Resumable),
            1 | 4 if !has_joined && document["error"].is_string() => Some(Ended::Resumable),
            _ => panic!("exit {code}: {answer}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
