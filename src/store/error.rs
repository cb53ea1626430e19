//! What can go wrong with a database, by whose move is next.

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database or the way to it is in trouble, or another transaction is in the way: trying again can help.
    #[error("{message} ({code})")]
    Transient {
        /// SQLSTATE, or the kind of error where there is none.
        code: String,
        /// The database's own words, without its detail, which can hold values.
        message: String,
    },
    /// The database refuses, and will again.
    #[error("the database refuses: {message} ({code})")]
    Refused {
        /// SQLSTATE, or the kind of error where there is none.
        code: String,
        /// The database's own words, without its detail, which can hold values.
        message: String,
    },
    /// reseal's own tables are not there, or are those of another version.
    #[error("reseal's own tables are missing or not up to date")]
    NotMigrated,
    /// reseal's own tables were made by a newer version.
    #[error(
        "reseal's own tables are of a newer version than this reseal: migration {version} is not known here"
    )]
    Newer {
        /// The first migration that is not known.
        version: i64,
    },
    /// A migration on record is not the one that this version has.
    #[error(
        "reseal's own tables are not as reseal made them: migration {version} is not the one of this reseal, or is broken off"
    )]
    Altered {
        /// The migration.
        version: i64,
    },
    /// The logical name is taken by another table or other columns.
    #[error("target {name} is registered for another table, key or columns")]
    OtherTarget {
        /// The logical name.
        name: String,
    },
    /// A key of the run was retired.
    #[error("{key} was retired")]
    Retired {
        /// The key's name.
        key: String,
    },
    /// After our update the cell holds the old value again: a trigger or rule of the table undoes the re-key.
    #[error("the table undoes the update: row {row}, column {column} kept its old value")]
    Undone {
        /// The row's key.
        row: String,
        /// The column.
        column: String,
    },
    /// What was asked for is not there.
    #[error("there is no {what}")]
    Missing {
        /// The thing.
        what: String,
    },
    /// What is stored in our own tables makes no sense.
    #[error("reseal's own tables hold something unexpected: {what}")]
    Corrupt {
        /// The table and column.
        what: &'static str,
    },
}

impl StoreError {
    /// Whether trying again, later or with a smaller batch, can help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. })
    }

    /// Whether the database said itself that it rolled the transaction back and kept the connection: the same
    /// transaction may be tried again. After any other transient error a commit may have gone through.
    pub fn is_rolled_back(&self) -> bool {
        let definite =
            |code: &str| ["40P01", "40001", "55P03", "57014"].contains(&code) || is_transient_sqlite(code);
        matches!(self, Self::Transient { code, .. } if definite(code))
    }

    /// The SQLSTATE or the kind of error, where the database gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Transient { code, .. } | Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}

/// The SQLSTATEs, whole or by class, that pass: deadlock, serialization, lock and statement time-outs, an idle
/// transaction cut off, a server going down or coming up, lost connections, a disk, memory or connections that ran out,
/// and a primary that is a standby for now (PostgreSQL, Appendix A).
const TRANSIENT_SQLSTATES: [&str; 9] =
    ["40P01", "40001", "55P03", "57014", "25P03", "57P0", "08", "53", "25006"];

/// SQLite's BUSY, LOCKED, their extended codes, and IOERR_LOCK-like ones come with these primary codes.
fn is_transient_sqlite(code: &str) -> bool {
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6))
}

impl StoreError {
    /// What a migration that was not applied means.
    pub(super) fn of_migration(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError;
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
            MigrateError::VersionMissing(version) => Self::Newer { version },
            MigrateError::VersionMismatch(version) | MigrateError::Dirty(version) => {
                Self::Altered { version }
            }
            _ => Self::NotMigrated,
        }
    }

    /// Whether all of `known` migrations are among those `applied`.
    ///
    /// # Errors
    /// [`StoreError::Newer`] for one that is applied and not known.
    pub(super) fn is_current(known: &[i64], applied: &[i64]) -> Result<bool, Self> {
        match applied.iter().find(|version| !known.contains(version)) {
            Some(&version) => Err(Self::Newer { version }),
            None => Ok(known.iter().all(|version| applied.contains(version))),
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let (transient, code, message) = match &error {
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default().into_owned();
                let transient = if database.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
                    is_transient_sqlite(&code)
                } else {
                    TRANSIENT_SQLSTATES.iter().any(|prefix| code.starts_with(prefix))
                };
                (transient, code, database.message().to_owned())
            }
            // Of a host's name that is not found the kind says nothing.
            sqlx::Error::Io(io) => match io.kind().to_string() {
                kind if kind == "uncategorized error" => (true, "io".to_owned(), io.to_string()),
                kind => (true, "io".to_owned(), kind),
            },
            sqlx::Error::Protocol(_) => {
                (true, "protocol".to_owned(), "the connection was cut off".to_owned())
            }
            sqlx::Error::PoolTimedOut => {
                (true, "timeout".to_owned(), "no connection could be had in time".to_owned())
            }
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                (true, "closed".to_owned(), "the connection was closed".to_owned())
            }
            sqlx::Error::Tls(_) => {
                (false, "tls".to_owned(), "the server's certificate is not accepted".to_owned())
            }
            sqlx::Error::Configuration(_) => {
                (false, "configuration".to_owned(), "the database URL is not usable".to_owned())
            }
            sqlx::Error::RowNotFound => (false, "empty".to_owned(), "a row is missing".to_owned()),
            _ => (false, "client".to_owned(), "the answer could not be read".to_owned()),
        };
        if transient { Self::Transient { code, message } } else { Self::Refused { code, message } }
    }
}
