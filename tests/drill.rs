//! The drill, as somebody meets it who has just cloned the repository; and the README, command by command.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use crate::support::oracle;

const SELECT: &str = "SELECT database_url_encrypted, redis_url_encrypted FROM org_instances";

/// The program, where temporary files go to `folder` and nothing else of ours is known.
fn reseal(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reseal"));
    command.args(words).current_dir(folder).env_clear().env("TMPDIR", folder).stdin(Stdio::null());
    command
}

struct Drilled {
    folder: TempDir,
    code: Option<i32>,
    out: String,
    err: String,
}

impl Drilled {
    fn new(words: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let output = reseal(folder.path(), &[&["drill"], words].concat()).output().unwrap();
        Self::of(folder, output)
    }

    /// Whatever was drilled, and however it ended: no secret is shown.
    fn of(folder: TempDir, output: Output) -> Self {
        let (out, err) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        for said in [&out, &err] {
            for secret in ["npg_", "postgres://", "rediss://", "default:", "\x1b"] {
                assert!(!said.contains(secret), "{secret:?} in {said}");
            }
            let key = |word: &str| word.len() >= 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(!said.split(|letter: char| !letter.is_ascii_alphanumeric()).any(key), "{said}");
        }
        Self { folder, code: output.status.code(), out, err }
    }

    #[track_caller]
    fn held(&self) {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        assert!(self.out.contains("\nNothing was lost: "), "{}", self.out);
    }

    #[track_caller]
    fn left_nothing(&self) {
        assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), 0, "{}", self.out);
    }

    /// Rows read when the run was killed, and rows that there were.
    fn killed_at(&self) -> Option<(u64, u64)> {
        let (_, rest) = self.out.split_once("Killed after ")?;
        let mut numbers = rest.split(' ').map(|word| word.replace(',', "")).flat_map(|word| word.parse());
        Some((numbers.next()?, numbers.next()?))
    }
}

async fn open(path: &Path) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap()
}

#[test]
fn every_format_is_killed_and_loses_nothing() {
    for format in ["v1", "v2", "v3"] {
        let drilled = Drilled::new(&["--rows", "300", "--format", format]);
        drilled.held();
        drilled.left_nothing();
        let (read, rows) = drilled.killed_at().expect("it was killed");
        assert!(5 * read >= 2 * rows && read < rows, "{format}: {read} of {rows}");
        assert!(drilled.out.contains(&format!("It went on at row {read}; ")), "{}", drilled.out);
    }
}

#[test]
fn the_smallest_tables_are_drilled_too() {
    for rows in ["0", "1", "2"] {
        let drilled = Drilled::new(&["--rows", rows]);
        drilled.held();
        drilled.left_nothing();
    }
}

/// What it says it did is what is there: the oracle, which shares no code with the drill, opens every value.
#[tokio::test]
async fn what_is_kept_is_under_the_new_key() {
    let drilled = Drilled::new(&["--rows", "200", "--format", "v1", "--keep", "kept"]);
    drilled.held();
    let kept = drilled.folder.path().join("kept");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o700);
    for name in ["old.key", "new.key"] {
        assert_eq!(fs::metadata(kept.join(name)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let key = |name| -> oracle::Key {
        let text = fs::read_to_string(kept.join(name)).unwrap();
        hex::decode(text.trim()).unwrap().try_into().unwrap()
    };
    let (old, new) = (key("old.key"), key("new.key"));
    let rows = sqlx::query_as::<_, (Option<Vec<u8>>, Option<Vec<u8>>)>(SELECT);
    let rows = rows.fetch_all(&mut open(&kept.join("tenants.db")).await).await.unwrap();
    let mut values = 0;
    for (value, scheme) in
        rows.iter().flat_map(|(database, redis)| [(database, "postgres://"), (redis, "rediss://")])
    {
        let Some(value) = value else { continue };
        assert!(oracle::open_v1(&old, value).is_none());
        assert!(oracle::open_v1(&new, value).unwrap().starts_with(scheme.as_bytes()));
        values += 1;
    }
    let said = format!("Nothing was lost: {} tenants, {values} values, ", rows.len());
    assert!(drilled.out.contains(&said), "{said} is not in {}", drilled.out);

    // How to look around, as it is told.
    let told = drilled.out.lines().map(str::trim).collect::<Vec<_>>();
    let here =
        format!("cd {} && export DATABASE_URL=sqlite://tenants.db", kept.canonicalize().unwrap().display());
    assert!(told.contains(&here.as_str()), "{}", drilled.out);
    for line in ["reseal status", "reseal verify --new static:file:new.key --format v1"] {
        assert!(told.contains(&line), "{}", drilled.out);
        let words = line.split(' ').skip(1).collect::<Vec<_>>();
        let output = reseal(&kept, &words).env("DATABASE_URL", "sqlite://tenants.db").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    let again = reseal(drilled.folder.path(), &["drill", "--keep", "kept"]).output().unwrap();
    assert_eq!(again.status.code(), Some(4));
    assert!(kept.join("new.key").exists());
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"));
}

/// A drill under way in `kept`, once the run is on its way.
struct Watched {
    folder: TempDir,
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    heard: String,
}

impl Watched {
    fn new(words: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = reseal(folder.path(), &[&["drill", "--rows", "400"], words].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut heard = String::new();
        while !heard.contains("reseal run ") {
            assert_ne!(out.read_line(&mut heard).unwrap(), 0, "{heard}");
        }
        Self { folder, child, out, heard }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ended(mut self) -> Drilled {
        self.out.read_to_string(&mut self.heard).unwrap();
        let output = self.child.wait_with_output().unwrap();
        Drilled::of(self.folder, Output { stdout: self.heard.into_bytes(), ..output })
    }
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let watched = Watched::new(&[]);
    kill_process(Pid::from_child(&watched.child), Signal::INT).unwrap();
    let drilled = watched.ended();
    assert_eq!((drilled.code, drilled.err.as_str()), (Some(1), "error: interrupted\n"));
    drilled.left_nothing();
}

#[tokio::test]
async fn a_value_that_somebody_damages_is_named() {
    let watched = Watched::new(&["--keep", "kept"]);
    let mut db = open(&watched.path("kept/tenants.db")).await;
    // All of them: the control plane writes some again before anyone looks.
    let damage =
        "UPDATE org_instances SET redis_url_encrypted = zeroblob(99) WHERE redis_url_encrypted IS NOT NULL";
    sqlx::query(damage).execute(&mut db).await.unwrap();
    let drilled = watched.ended();
    assert_eq!(drilled.code, Some(1), "{}", drilled.out);
    let first = drilled.err.strip_prefix("error: ").unwrap();
    assert!(first.contains(" cells are not what was last written: row "), "{first}");
    assert!(first.contains(", column redis_url_encrypted does not open; row "), "{first}");
    assert!(!drilled.out.contains("Nothing was lost"), "{}", drilled.out);
}

#[test]
fn the_commands_of_the_readme_are_there() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let help = |words: &[&str]| {
        let output = reseal(folder.path(), &[words, &["--help"]].concat()).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    };
    let (mut in_shell, mut checked) = (false, 0);
    for line in readme.replace("\\\n", " ").lines() {
        if line.starts_with("```") {
            in_shell = line == "```sh";
        }
        let typed = line.strip_prefix("reseal ").or_else(|| line.strip_prefix("cargo run --release -- "));
        let Some(typed) = typed.filter(|_| in_shell) else { continue };
        let words = typed.split('#').next().unwrap().split_whitespace().collect::<Vec<_>>();
        let text =
            words.get(..2).and_then(help).or_else(|| help(&words[..1])).unwrap_or_else(|| panic!("{line}"));
        let known = text.split([' ', '\n', ',']).collect::<Vec<_>>();
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(known.contains(flag), "{flag} of: {line}");
        }
        checked += 1;
    }
    assert!(checked > 12, "{checked} commands were found");
}
