//! Somebody at a terminal: a folder, an environment, a database of tenants, and an eye on every secret.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;
use sqlx::{PgPool, SqlitePool, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use crate::support::{
    folder_in_memory,
    oracle::Key,
    postgres::{TempPostgres, TestDatabase},
    tenants::{Expected, Holds, Tenants},
};

/// The key that the tenants are under at first.
pub(crate) const OLD: Key = [0x5c; 32];

pub(crate) struct Operator {
    pub(crate) folder: TempDir,
    environment: Vec<(String, String)>,
    secrets: Vec<String>,
}

/// What the program said, and how it ended.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// The one document on standard output.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }

    /// The hints, as typed.
    pub(crate) fn hints(&self) -> Vec<&str> {
        self.err.lines().filter_map(|line| line.strip_prefix("hint: ")).collect()
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        self
    }
}

impl Operator {
    /// With the old key in the variable `OLD_KEY`, and a keyring in `keyring.json`.
    pub(crate) fn new() -> Self {
        let folder = folder_in_memory();
        let mut operator = Self { folder, environment: Vec::new(), secrets: Vec::new() };
        operator.set("OLD_KEY", &hex::encode(OLD));
        operator.guard(&hex::encode(OLD));
        operator.guard(&BASE64_STANDARD.encode(OLD));
        operator.reseal(&["keygen", "--local-kms", "keyring.json"]).exits(0);
        let keyring: Value =
            serde_json::from_slice(&fs::read(operator.path("keyring.json")).unwrap()).unwrap();
        operator.guard(keyring["keys"][0]["key"].as_str().unwrap());
        operator
    }

    /// With tenants in Postgres, and `DATABASE_URL` set.
    pub(crate) async fn on_postgres(name: &str, rows: usize) -> (Self, TestDatabase<'static>, PgPool) {
        let database = TempPostgres::shared().database(name);
        let (operator, pool) = Self::on_database(&database, rows).await;
        (operator, database, pool)
    }

    /// With tenants in this database, and `DATABASE_URL` set.
    pub(crate) async fn on_database(database: &TestDatabase<'_>, rows: usize) -> (Self, PgPool) {
        let mut operator = Self::new();
        let pool = database.pool();
        let expected = Tenants { seed: 3, rows, key: &OLD }.fill_postgres(&pool).await;
        operator.guard_all(&expected);
        operator.set("DATABASE_URL", &database.url());
        (operator, pool)
    }

    /// With tenants in `tenants.db`, and `DATABASE_URL` set.
    pub(crate) async fn on_sqlite(rows: usize) -> (Self, SqlitePool, Expected) {
        let mut operator = Self::new();
        let options = SqliteConnectOptions::new().filename(operator.path("tenants.db"));
        let pool = SqlitePool::connect_with(options.create_if_missing(true)).await.unwrap();
        let expected = Tenants { seed: 3, rows, key: &OLD }.fill_sqlite(&pool).await;
        operator.guard_all(&expected);
        operator.set("DATABASE_URL", "sqlite://tenants.db");
        (operator, pool, expected)
    }

    /// Sets an environment variable for what is typed from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Every variable that was set.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// From now on this must not be in anything the program says.
    pub(crate) fn guard(&mut self, secret: &str) {
        self.secrets.push(secret.to_owned());
    }

    fn guard_all(&mut self, expected: &Expected) {
        for holds in expected.0.values().flatten() {
            if let Holds::Sealed(plaintext) = holds
                && !plaintext.is_empty()
            {
                self.guard(plaintext);
            }
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file with this mode.
    pub(crate) fn file(&self, name: &str, content: &str, mode: u32) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Types a command, and sees that no secret is in what it says.
    #[track_caller]
    pub(crate) fn reseal(&self, args: &[&str]) -> Said {
        let said = self.pipe(args, b"");
        let said = Said {
            code: said.status.code().expect("no signal ended it"),
            out: String::from_utf8(said.stdout).unwrap(),
            err: String::from_utf8(said.stderr).unwrap(),
        };
        self.watch(&said);
        said
    }

    /// The same for a line with its quotes, as a hint gives it.
    #[track_caller]
    pub(crate) fn type_line(&self, line: &str) -> Said {
        let words = line.strip_prefix("reseal ").unwrap().split(' ').collect::<Vec<_>>();
        self.reseal(&words)
    }

    /// Sends bytes through a command; what comes out may be secret.
    pub(crate) fn pipe(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.start(args);
        // A command that refuses before it reads closes the pipe.
        drop(child.stdin.take().unwrap().write_all(input));
        child.wait_with_output().unwrap()
    }

    /// Starts a command.
    pub(crate) fn start(&self, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_reseal"))
            .args(args)
            .current_dir(self.folder.path())
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[track_caller]
    pub(crate) fn watch(&self, said: &Said) {
        for secret in &self.secrets {
            assert!(!said.out.contains(secret) && !said.err.contains(secret), "a secret was said");
        }
    }
}

/// The flags of the common run: from the old key to the keyring.
pub(crate) const KEYS: [&str; 4] = ["--old", "static:env:OLD_KEY", "--new", "local-kms:keyring.json"];

/// `command` with [`KEYS`] and more.
pub(crate) fn with_keys<'a>(command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [command, &KEYS, more].concat()
}
