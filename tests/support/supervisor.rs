//! Servers that cannot outlive the test process.
//!
//! Destructors don't run for statics, nor after a kill. So each server is started by a small shell script that stays
//! beside it and reads its standard input from us: when that ends, we are gone, and the script stops the server and
//! removes its files. The script has its own process group, so that Ctrl-C in a terminal doesn't take it before its
//! work is done.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// A running script; dropped, it cleans up before the drop returns.
pub(crate) struct Supervisor {
    script: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Supervisor {
    /// Runs `script` under `sh`, as a user that servers accept.
    pub(crate) fn start(script: &str, arguments: &[&OsStr]) -> Self {
        let mut script = unprivileged("sh")
            .arg("-c")
            .arg(script)
            .arg("supervisor")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("sh runs");
        Self {
            input: script.stdin.take(),
            output: BufReader::new(script.stdout.take().expect("its output was piped above")),
            script,
        }
    }

    /// The next line that the script prints.
    ///
    /// # Panics
    /// When the script has ended instead; it has said why on standard error.
    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the script prints UTF-8");
        assert!(line.ends_with('\n'), "the supervising script ended early");
        line.truncate(line.len() - 1);
        line
    }

    /// Sends one line to the script and waits for its answer.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        let input = self.input.as_mut().expect("taken only on drop");
        writeln!(input, "{line}").expect("the script reads until its input ends");
        self.answer()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.input.take());
        self.script.wait().expect("the script is our child");
    }
}

/// A command that runs as ourselves, or, when we are root, as the user `postgres` or `nobody`: the servers refuse root.
///
/// It runs in `/tmp`, which that user can enter, without the `PG…` variables of whoever runs the tests.
pub(crate) fn unprivileged(program: impl AsRef<OsStr>) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = demoted();
        command.arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/tmp").env("LC_ALL", "C.UTF-8").env_remove("LANGUAGE");
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    command
}

/// `setpriv`, up to where the program goes. It belongs to util-linux, which every Debian has.
fn demoted() -> Command {
    let accounts = fs::read_to_string("/etc/passwd").expect("every account may read it");
    let account = |wanted| {
        let mut accounts = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
        accounts.find(|fields| fields[0] == wanted)
    };
    let account = account("postgres").or_else(|| account("nobody")).expect("a user other than root");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", account[2], "--regid", account[3], "--clear-groups", "--"]);
    command
}

/// Where `program` is: in one of `folders`, in PATH, or among the programs of administrators.
pub(crate) fn find_program(program: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = folders.iter().cloned().chain(std::env::split_paths(&path));
    folders
        .chain(["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).to_owned()))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
