//! Errors: what happened, what to type next, and the exit code. The one place that decides codes.
//!
//! | what stopped us | code |
//! |---|---|
//! | flags, environment, `reseal.toml`, a database URL that is none | 2 |
//! | a precondition: keys, table, role, our own tables, a key that the KMS doesn't let us use | 4 |
//! | the database or the KMS in trouble while a run is open | 5: the same command goes on |
//! | the same in any other command, or before a run is open | 1: nothing is there to go on with |
//! | anything else | 1 |

use reseal::{keyring::kms::KmsError, rekey::RekeyError, store::StoreError};
use serde_json::{Map, Value, json};

use super::{Exit, Output, stdio};
use crate::config::ConfigError;

/// What the error of a database begins with.
const THE_DATABASE: &str = "the database";

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) struct Fault {
    exit: Exit,
    what: String,
    hints: Vec<String>,
    /// What was done until then, in the shape of the command's answer.
    document: Map<String, Value>,
}

impl Fault {
    fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), hints: Vec::new(), document: Map::new() }
    }

    pub(super) fn failed(what: impl Into<String>) -> Self {
        Self::new(Exit::Failed, what)
    }

    pub(super) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    pub(super) fn refused(what: impl Into<String>) -> Self {
        Self::new(Exit::Refused, what)
    }

    pub(super) fn resumable(what: impl Into<String>) -> Self {
        Self::new(Exit::Resumable, what)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// What happened and what to type next, for an answer that is more than this.
    pub(super) fn into_parts(self) -> (String, Vec<String>) {
        (self.what, self.hints)
    }

    /// Adds what was done until then.
    pub(super) fn with(mut self, document: Value) -> Self {
        if let Value::Object(document) = document {
            self.document = document;
        }
        self
    }

    /// Names the database that it is about, where it is about one.
    pub(super) fn naming(mut self, place: Option<String>) -> Self {
        if let (Some(rest), Some(place)) = (self.what.strip_prefix(THE_DATABASE), place)
            && (rest.starts_with(':') || rest.starts_with(" refuses:"))
        {
            self.what = format!("{THE_DATABASE} {place}{rest}");
        }
        self
    }

    /// The error of a run that was open: resumable where the same command goes on.
    pub(super) fn of_open_run(error: RekeyError, resume: &str) -> Self {
        if error.is_resumable() {
            let whose = if matches!(error, RekeyError::Store(_)) { "the database: " } else { "" };
            Self::resumable(format!("{whose}{error}; the run stays open and nothing is lost")).hint(resume)
        } else {
            error.into()
        }
    }

    /// Says it: on standard error for a person, and as the one document on standard output for a program.
    pub(super) fn report(self, command: &str, output: Output) -> Exit {
        if output == Output::Json {
            let mut document = self.document;
            let resumable = self.exit == Exit::Resumable;
            document.entry("command").or_insert_with(|| command.into());
            document
                .entry("outcome")
                .or_insert_with(|| if resumable { "interrupted" } else { "failed" }.into());
            document.insert("error".to_owned(), self.what.as_str().into());
            document.insert("hints".to_owned(), json!(self.hints));
            // The exit code says what is wrong even when nobody reads this.
            drop(stdio::answer(format!("{}\n", Value::Object(document)).as_bytes()));
        }
        stdio::note(format_args!("error: {}", stdio::shown(&self.what)));
        for hint in &self.hints {
            stdio::note(format_args!("hint: {}", stdio::shown(hint)));
        }
        self.exit
    }
}

impl From<ConfigError> for Fault {
    fn from(error: ConfigError) -> Self {
        Self { hints: error.hint.into_iter().collect(), ..Self::usage(error.what) }
    }
}

impl From<RekeyError> for Fault {
    fn from(error: RekeyError) -> Self {
        match error {
            RekeyError::Refused { what, hint } => Self::refused(what).hint(hint),
            error @ RekeyError::SameKey { .. } => Self::usage(error.to_string()).hint(
                "name the key that values are to leave as --old; a new one: reseal keygen --file new.key",
            ),
            RekeyError::Store(error) => error.into(),
            RekeyError::Kms(error) => error.into(),
            error @ RekeyError::Proof(_) => Self::failed(error.to_string())
                .hint("this is a bug of reseal, or memory that fails: report it"),
            error @ RekeyError::NotIdempotent { .. } => {
                Self::failed(error.to_string()).hint("the page with this row was not written: mend the edit")
            }
            error @ RekeyError::Sums { .. } => Self::failed(error.to_string())
                .hint("this is a bug of reseal: report it; then: reseal verify"),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        let what = error.to_string();
        match &error {
            StoreError::Transient { code, .. } => {
                Self::failed(format!("{THE_DATABASE}: {what}")).hint(transient(code))
            }
            StoreError::NotMigrated => Self::refused(what).hint("reseal init"),
            StoreError::Newer { .. } => Self::refused(what).hint(
                "use the newer reseal: this one would not know what it does to them (reseal --version)",
            ),
            StoreError::Altered { .. } => Self::refused(what)
                .hint("find out who changed them; reseal does not mend them: restore them from a backup"),
            StoreError::Retired { .. } => Self::refused(what).hint("name another key: reseal keys list"),
            StoreError::OtherTarget { .. } => Self::refused(what)
                .hint("name the table and columns it was registered with, or another --logical-name"),
            StoreError::Undone { .. } => {
                Self::failed(what).hint("find the trigger that restores old values: reseal plan lists them")
            }
            StoreError::Refused { code, .. } => match code.as_str() {
                NOT_A_DATABASE => Self::failed(what)
                    .hint("name the SQLite database that the control plane uses: DATABASE_URL=sqlite://FILE"),
                SQLITE_FULL => Self::failed(what).hint(NO_ROOM),
                "configuration" => Self::usage(what).hint("postgres://USER@HOST/DATABASE"),
                "tls" => Self::failed(what)
                    .hint("--tls verify-full needs a certificate for the host's name, by a known authority"),
                "28P01" | "28000" => {
                    Self::failed(what).hint("check the role and the password in the database URL")
                }
                "42501" => {
                    Self::refused(what).hint("grant the role what is missing, or connect as the owner")
                }
                "RK001" => Self::refused(what)
                    .hint("end under the key that the fence demands, or take it down: reseal fence off"),
                _ => Self::failed(what),
            },
            StoreError::Missing { .. } | StoreError::Corrupt { .. } => Self::failed(what),
        }
    }
}

impl From<KmsError> for Fault {
    fn from(error: KmsError) -> Self {
        let what = error.to_string();
        match error {
            KmsError::Key { .. } => Self::refused(what)
                .hint("allow GenerateDataKey and Decrypt on the key, and check that it is enabled"),
            KmsError::Service { .. } => Self::failed(what).hint("check the way to the KMS, and try again"),
            KmsError::Blob { .. } => Self::failed(what),
        }
    }
}

/// SQLite's NOTADB and FULL.
const NOT_A_DATABASE: &str = "26";
const SQLITE_FULL: &str = "13";

const NO_ROOM: &str = "make room on its disk, and type the same again";

/// What to do about trouble that may pass.
fn transient(code: &str) -> &'static str {
    // The primary code of SQLite's BUSY and LOCKED, which have extended ones.
    let is_busy = code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6));
    match code {
        "53100" => NO_ROOM,
        "55P03" => "another session holds a lock (pg_locks says which): end it or wait, and try again",
        _ if is_busy && code.len() < 5 => {
            "another program is writing to the file: end it or wait, and try again"
        }
        "io" => "check that it is up, and its host and port, and try again",
        _ => "check that it is up, and try again",
    }
}
