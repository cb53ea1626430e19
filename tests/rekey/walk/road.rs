//! The work that is died in: from old keys to a new one, an empty quarantine, a fence, a verify that passes, and the
//! end of the old key; or all at once, as a staged run does it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use reseal::{
    envelope::Format,
    keyring::{
        ClearText,
        kms::{Context, Kms, local::LocalKms},
        spec::KeySpec,
    },
    rekey::{self, DataKeyScope, Hook, Intent, Job, KeyChoice, Options, Outcome, Step},
    store::{FenceMode, Store, Target, TargetName, sqlite::Sqlite},
};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, SqlitePool};
use uuid::Uuid;

use super::obstacles::Way;
use crate::{
    rekey::stage::{OLD, connect, try_run_job},
    support::{
        oracle::{self, Key},
        private_file,
        tenants::{COLUMNS, Expected, Holds, Stored, TABLE, stored_in_postgres, stored_in_sqlite},
    },
};

pub(super) const ROWS: usize = 60;

/// Rows of the part that the run begins with.
const PART: u64 = 30;

/// A key that the run isn't given, and the second try is.
const OTHER: Key = [0x55; 32];

/// The static key that a staged run ends under.
pub(super) const NEW: Key = [0x22; 32];

/// The longest value that the run reads; the second try reads longer ones.
const LONGEST: usize = 4096;

/// Values that only the second try opens.
pub(super) const BAD_VALUES: i64 = 2;

/// Rows that obstacles write while the run is under way. They hold a database URL from the beginning.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Rewritten {
    /// Between the first page and its commit.
    pub(super) under_the_commit: String,
    /// Once the first sweep is over.
    pub(super) behind_the_cursor: String,
    /// Between the last page that was staged and the lock.
    pub(super) under_the_swap: String,
}

/// All that the two halves of a death have in common.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Road {
    /// The database.
    pub(super) url: String,
    /// Where the keys are.
    pub(super) keys: PathBuf,
    pub(super) format: Format,
    pub(super) rewritten: Rewritten,
}

impl Road {
    /// Makes the keys in `folder`, takes values of all kinds into the table, and says what each is to hold in the end.
    pub(super) async fn build(url: String, folder: &Path, format: Format, expected: &mut Expected) -> Self {
        for (name, key) in [("old", &OLD), ("other", &OTHER), ("new-static", &NEW)] {
            private_file(&folder.join(name), &hex::encode(key));
        }
        LocalKms::create(&folder.join("first")).unwrap();
        LocalKms::create(&folder.join("new")).unwrap();
        let first = LocalKms::open(&folder.join("first")).unwrap();

        let pool = Pool::connect(&url).await;
        let sealed = |holds: &[Holds; 2]| matches!(holds[0], Holds::Sealed(_));
        let rows: Vec<Uuid> =
            expected.0.iter().filter(|(_, holds)| sealed(holds)).map(|(row, _)| *row).collect();
        let long = "x".repeat(LONGEST + 1);
        let texts = ["postgres://bad/other", &long, "postgres://first/1", "postgres://first/2"];
        // A staged run goes from static keys to a static key, and leaves nothing behind.
        let texts = if format == Format::V1 { &[][..] } else { &texts[..] };
        for (number, text) in texts.iter().enumerate() {
            let value = match number {
                0 => oracle::seal_v1(&OTHER, None, text.as_bytes()),
                1 => oracle::seal_v1(&OLD, None, text.as_bytes()),
                _ => {
                    let made = first.generate_data_key(&Context::new()).await.unwrap();
                    oracle::seal_v2(made.key.expose(), &made.wrapped, text.as_bytes())
                }
            };
            let row = rows[10 * (number + 1)];
            pool.write(&row.to_string(), value).await;
            expected.0.get_mut(&row).unwrap()[0] = Holds::Sealed((*text).to_owned());
        }
        pool.execute("CREATE TABLE ledger (row_key text, holds text)").await;
        if let Pool::Sqlite(_) = pool {
            // The file is copied without its log.
            pool.execute("PRAGMA wal_checkpoint(TRUNCATE)").await;
        }
        pool.close().await;
        let rewritten = Rewritten {
            under_the_commit: rows[3].to_string(),
            behind_the_cursor: rows[5].to_string(),
            under_the_swap: rows[7].to_string(),
        };
        Self { url, keys: folder.to_owned(), format, rewritten }
    }

    pub(super) async fn store(&self) -> Arc<dyn Store> {
        match self.url.strip_prefix("sqlite://") {
            Some(path) => Arc::new(Sqlite::open(Path::new(path)).await.unwrap()),
            None => connect(&self.url).await,
        }
    }

    /// Goes all the way.
    pub(super) async fn travel(&self, hook: Hook, way: Way) {
        match self.format {
            Format::V1 => self.travel_at_once(hook).await,
            Format::V2 | Format::V3 => self.travel_step_by_step(hook, way).await,
        }
    }

    /// Stages, changes its mind, stages again, swaps, and sweeps after those who were late.
    async fn travel_at_once(&self, hook: Hook) {
        let store = self.store().await;
        let options = Options { workers: 1, batch: 16, hook, ..Options::default() };
        let job = Arc::new(self.job(&store, &[], options.clone(), Intent::Run).await);
        rekey::stage(&job).await.unwrap();
        rekey::drop_staged(&job).await.unwrap();
        rekey::stage(&job).await.unwrap();
        rekey::swap_staged(&job, ROWS).await.unwrap();
        // No fence can tell who still writes under the old static key: the last sweep comes when nobody does.
        for _ in ["while some still write", "the last sweep"] {
            let job = self.job(&store, &[], options.clone(), Intent::Run).await;
            assert_eq!(try_run_job(job).await.unwrap().outcome, Outcome::Complete);
        }
        self.verify(&store, options).await;
    }

    async fn verify(&self, store: &Arc<dyn Store>, options: Options) -> Arc<Job> {
        let job = Arc::new(self.job(store, &[], options, Intent::Verify).await);
        let verified = rekey::verify(&job).await.unwrap();
        assert!(verified.passed(), "{verified:?}");
        job
    }

    async fn travel_step_by_step(&self, hook: Hook, way: Way) {
        let store = self.store().await;
        let longer = Options { hook: hook.clone(), ..Options::default() };
        let old = rekey::OldKey::load(&self.key("static:file", "old")).await.unwrap();
        if store.retirements().await.unwrap().iter().any(|retired| retired.key == old.name()) {
            self.verify(&store, longer).await;
            return;
        }
        let run =
            Options { workers: 1, batch: 16, max_value: LONGEST, hook: hook.clone(), ..Options::default() };
        let part = Options { rows_limit: Some(PART), ..run.clone() };
        let part = match way {
            Way::Plain => part,
            // The second page waits for 8 s, and a lease is renewed after 5.
            Way::Paced => Options { max_rows_per_second: Some(2), ..part },
            // A row alone is tried three times before it is passed over.
            Way::Locked => Options { batch: 1, ..part },
        };
        for options in [part, run] {
            let outcome =
                try_run_job(self.job(&store, &[], options, Intent::Run).await).await.unwrap().outcome;
            assert!(
                matches!(outcome, Outcome::Interrupted | Outcome::Quarantined | Outcome::Complete),
                "{outcome:?}"
            );
        }
        let again = self.job(&store, &["other"], longer.clone(), Intent::Run).await;
        let retried = rekey::retry_quarantined(&Arc::new(again)).await.unwrap();
        assert_eq!(retried.quarantined, 0);
        self.raise_fence(&store, &hook).await;
        let last_sweep = self.job(&store, &[], longer.clone(), Intent::Run).await;
        assert_eq!(try_run_job(last_sweep).await.unwrap().outcome, Outcome::Complete);
        let job = self.verify(&store, longer).await;
        // Of v2 a fence sees the form only: an operator has to know that nobody holds the old key.
        rekey::retire(&job, &old, &["holders".to_owned()]).await.unwrap();
    }

    async fn raise_fence(&self, store: &Arc<dyn Store>, hook: &Hook) {
        let (target, new) = (self.target(store).await, self.key("local-kms", "new"));
        let rule = rekey::fence_rule(store.as_ref(), TABLE, self.format, &new).await.unwrap();
        let patience = Duration::from_secs(10);
        let raised = rekey::raise_fence(store.as_ref(), &target, FenceMode::Enforce, rule, patience, |_| {});
        hook.at(Step::RaiseFence, raised).await.unwrap();
    }

    async fn target(&self, store: &Arc<dyn Store>) -> Target {
        let name = TargetName {
            logical: None,
            schema: None,
            table: TABLE.to_owned(),
            key_column: "org_id".to_owned(),
            columns: COLUMNS.map(str::to_owned).to_vec(),
        };
        store.inspect(&name).await.unwrap().target.unwrap()
    }

    fn key(&self, kind: &str, name: &str) -> KeySpec {
        format!("{kind}:{}", self.keys.join(name).display()).parse().unwrap()
    }

    async fn job(&self, store: &Arc<dyn Store>, more: &[&str], options: Options, intent: Intent) -> Job {
        let old = more.iter().chain(&["old"]).map(|name| self.key("static:file", name));
        let (old, new) = match self.format {
            Format::V1 => (old.collect(), self.key("static:file", "new-static")),
            Format::V2 | Format::V3 => {
                (old.chain([self.key("local-kms", "first")]).collect(), self.key("local-kms", "new"))
            }
        };
        let choice = KeyChoice {
            old,
            new,
            format: self.format,
            scope: DataKeyScope::Row,
            new_data_key: false,
            clear_text: ClearText::Quarantine,
        };
        rekey::prepare(Arc::clone(store), self.target(store).await, &choice, options, intent).await.unwrap()
    }
}

/// The database by other means than the store's.
#[derive(Debug, Clone)]
pub(super) enum Pool {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

const SET: &str = "UPDATE org_instances SET database_url_encrypted = $1 WHERE CAST(org_id AS text) = $2";

/// The same on either database.
macro_rules! on_either {
    ($self:expr, $pool:ident => $body:expr) => {
        match $self {
            Pool::Postgres($pool) => $body,
            Pool::Sqlite($pool) => $body,
        }
    };
}

impl Pool {
    pub(super) async fn connect(url: &str) -> Self {
        if url.starts_with("sqlite:") {
            Self::Sqlite(SqlitePool::connect(url).await.unwrap())
        } else {
            Self::Postgres(PgPool::connect(url).await.unwrap())
        }
    }

    pub(super) async fn execute(&self, statement: &'static str) {
        on_either!(self, pool => drop(sqlx::query(statement).execute(pool).await.unwrap()));
    }

    pub(super) async fn number(&self, query: &'static str) -> i64 {
        on_either!(self, pool => sqlx::query_scalar(query).fetch_one(pool).await.unwrap())
    }

    pub(super) async fn stored(&self) -> Vec<Stored> {
        match self {
            Self::Postgres(pool) => stored_in_postgres(pool).await,
            Self::Sqlite(pool) => stored_in_sqlite(pool).await,
        }
    }

    /// What obstacles wrote: rows, and the database URL that each is to hold.
    pub(super) async fn ledger(&self) -> Vec<(String, String)> {
        on_either!(self, pool => sqlx::query_as("SELECT row_key, holds FROM ledger").fetch_all(pool).await.unwrap())
    }

    async fn write(&self, row: &str, value: Vec<u8>) {
        on_either!(self, pool => drop(sqlx::query(SET).bind(value).bind(row.to_owned()).execute(pool).await.unwrap()));
    }

    /// Writes a database URL under the old key, and into the ledger, in one transaction.
    pub(super) async fn write_old(&self, row: &str, text: &str) {
        let value = oracle::seal_v1(&OLD, None, text.as_bytes());
        on_either!(self, pool => {
            let mut transaction = pool.begin().await.unwrap();
            sqlx::query("INSERT INTO ledger VALUES ($1, $2)")
                .bind(row.to_owned())
                .bind(text.to_owned())
                .execute(&mut *transaction)
                .await
                .unwrap();
            sqlx::query(SET).bind(value).bind(row.to_owned()).execute(&mut *transaction).await.unwrap();
            transaction.commit().await.unwrap();
        });
    }

    pub(super) async fn close(&self) {
        on_either!(self, pool => pool.close().await);
    }
}
