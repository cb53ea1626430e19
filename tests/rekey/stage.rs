//! A table of tenants on a real database, keys in files, and an independent check of every plaintext.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_sdk_kms::primitives::Blob;

use reseal::{
    envelope::Format,
    keyring::{ClearText, kms::Kms, kms::local::LocalKms},
    rekey::{self, DataKeyScope, Intent, Job, KeyChoice, Options, Report},
    secret::SecretText,
    store::{Store, Target, TargetName, postgres::Postgres, sqlite::Sqlite},
};
use sqlx::{PgPool, SqlitePool};
use tempfile::TempDir;
use tokio::sync::watch;
use uuid::Uuid;

use crate::support::{
    folder_in_memory,
    oracle::{self, Key},
    postgres::{TempPostgres, TestDatabase},
    private_file,
    tenants::{COLUMNS, Expected, Holds, Stored, TABLE, Tenants, stored_in_postgres, stored_in_sqlite},
};

/// The key that the tenants are under at first.
pub(crate) const OLD: Key = [0x11; 32];

/// What the new values are under, for the independent check.
pub(crate) enum Under<'a> {
    Static(&'a Key),
    Wrapped(&'a Path),
    Bound(&'a Path),
    /// v2, under whatever keys this client may use.
    Aws(&'a aws_sdk_kms::Client),
}

/// A database of the stage's own.
pub(crate) trait Database {
    /// Every row, read by other means than the store's.
    async fn stored(&self) -> Vec<Stored>;

    /// Writes one cell, as a control plane does.
    async fn put(&self, row: Uuid, column: usize, value: Vec<u8>);
}

pub(crate) struct OnPostgres {
    pub(crate) database: TestDatabase<'static>,
    pub(crate) pool: PgPool,
}

impl Database for OnPostgres {
    async fn stored(&self) -> Vec<Stored> {
        stored_in_postgres(&self.pool).await
    }

    async fn put(&self, row: Uuid, column: usize, value: Vec<u8>) {
        let sql = format!("UPDATE org_instances SET {} = $1 WHERE org_id = $2", COLUMNS[column]);
        let done =
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(value).bind(row).execute(&self.pool).await.unwrap();
        assert_eq!(done.rows_affected(), 1);
    }
}

pub(crate) struct OnSqlite {
    pub(crate) pool: SqlitePool,
}

impl Database for OnSqlite {
    async fn stored(&self) -> Vec<Stored> {
        stored_in_sqlite(&self.pool).await
    }

    async fn put(&self, row: Uuid, column: usize, value: Vec<u8>) {
        let sql = format!("UPDATE org_instances SET {} = $1 WHERE org_id = $2", COLUMNS[column]);
        let update = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(value).bind(row.to_string());
        assert_eq!(update.execute(&self.pool).await.unwrap().rows_affected(), 1);
    }
}

pub(crate) struct Stage<D = OnPostgres> {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) on: D,
    pub(crate) expected: Expected,
    pub(crate) folder: TempDir,
    pub(crate) options: Options,
}

impl Stage {
    /// `rows` tenants under [`OLD`] in a database of their own on the shared cluster, and our own tables.
    pub(crate) async fn new(name: &str, rows: usize) -> Self {
        let database = TempPostgres::shared().database(name);
        let url = database.url();
        Self::build(database, &url, rows).await
    }

    /// The same in `database`, which reseal reaches by `url`.
    pub(crate) async fn build(database: TestDatabase<'static>, url: &str, rows: usize) -> Self {
        let pool = database.pool();
        let expected = Tenants { seed: 7, rows, key: &OLD }.fill_postgres(&pool).await;
        sqlx::query("ANALYZE org_instances").execute(&pool).await.unwrap();
        let store = connect(url).await;
        store.migrate().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let options = Options { batch: 100, ..Options::default() };
        Self { store, on: OnPostgres { database, pool }, expected, folder, options }
    }

    /// Changes the database by hand.
    pub(crate) async fn execute(&self, statements: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&self.on.pool).await.unwrap();
    }

    /// One number out of the database.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&self.on.pool).await.unwrap()
    }

    /// Waits until the number is not 0.
    pub(crate) async fn wait_for(&self, query: &str) {
        for _ in 0..3000 {
            if self.number(query).await != 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("waited for a minute: {query}");
    }
}

impl Stage<OnSqlite> {
    /// `rows` tenants under [`OLD`] in an SQLite file, and our own tables.
    pub(crate) async fn on_sqlite(rows: usize) -> Self {
        let folder = folder_in_memory();
        let path = folder.path().join("tenants.db");
        let store = Arc::new(Sqlite::create(&path).await.unwrap());
        let pool = SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
        let expected = Tenants { seed: 7, rows, key: &OLD }.fill_sqlite(&pool).await;
        store.migrate().await.unwrap();
        let options = Options { batch: 100, ..Options::default() };
        Self { store, on: OnSqlite { pool }, expected, folder, options }
    }

    /// Changes the database by hand.
    pub(crate) async fn execute(&self, statements: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&self.on.pool).await.unwrap();
    }
}

impl<D: Database> Stage<D> {
    /// Writes a static key to a file and names it.
    pub(crate) fn static_key(&self, name: &str, key: &Key) -> String {
        let path = self.folder.path().join(name);
        private_file(&path, &hex::encode(key));
        format!("static:file:{}", path.display())
    }

    pub(crate) fn old(&self) -> String {
        self.static_key("old", &OLD)
    }

    /// Makes a keyring file.
    pub(crate) fn keyring(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        LocalKms::create(&path).unwrap();
        path
    }

    pub(crate) async fn target(&self) -> Target {
        self.target_of(TABLE, "org_id", &COLUMNS).await
    }

    pub(crate) async fn target_of(&self, table: &str, key_column: &str, columns: &[&str]) -> Target {
        let name = TargetName {
            logical: None,
            schema: None,
            table: table.to_owned(),
            key_column: key_column.to_owned(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
        };
        let inspection = self.store.inspect(&name).await.unwrap();
        assert_eq!(inspection.refusals().count(), 0, "{:?}", inspection.findings);
        inspection.target.unwrap()
    }

    pub(crate) fn choice(&self, format: Format, old: &[&str], new: &str) -> KeyChoice {
        KeyChoice {
            old: old.iter().map(|key| key.parse().unwrap()).collect(),
            new: new.parse().unwrap(),
            format,
            scope: DataKeyScope::Row,
            new_data_key: false,
            clear_text: ClearText::Quarantine,
        }
    }

    pub(crate) async fn job(&self, choice: &KeyChoice, intent: Intent) -> Job {
        self.job_of(self.target().await, choice, intent).await
    }

    pub(crate) async fn job_of(&self, target: Target, choice: &KeyChoice, intent: Intent) -> Job {
        rekey::prepare(Arc::clone(&self.store), target, choice, self.options.clone(), intent).await.unwrap()
    }

    pub(crate) async fn run(&self, choice: &KeyChoice) -> Report {
        run_job(self.job(choice, Intent::Run).await).await
    }

    pub(crate) async fn verify(&self, choice: &KeyChoice) -> rekey::Verified {
        rekey::verify(&Arc::new(self.job(choice, Intent::Verify).await)).await.unwrap()
    }

    /// Opens every value with the oracle and compares it with what was filled in.
    pub(crate) async fn differences(&self, under: Under<'_>) -> Vec<String> {
        self.differences_under_any(&[under]).await
    }

    /// The same for values that may be under any of these.
    pub(crate) async fn differences_under_any(&self, any: &[Under<'_>]) -> Vec<String> {
        let stored = self.on.stored().await;
        let mut keys = Vec::new();
        for under in any {
            keys.push((under, IndependentKeys::load(self.store.as_ref(), &stored, under).await));
        }
        self.expected.differences(&stored, |cell, value| {
            keys.iter().find_map(|(under, keys)| keys.open(under, cell, value))
        })
    }

    /// Writes a cell under [`OLD`], and expects it.
    pub(crate) async fn hold(&mut self, row: Uuid, column: usize, text: &str) {
        self.on.put(row, column, oracle::seal_v1(&OLD, None, text.as_bytes())).await;
        self.expected.0.get_mut(&row).unwrap()[column] = Holds::Sealed(text.to_owned());
    }

    /// How many cells there are, and how many of them hold something.
    pub(crate) fn cells(&self) -> (i64, i64) {
        let count = |cells: usize| i64::try_from(cells).unwrap();
        (count(2 * self.expected.0.len()), count(self.expected.sealed()))
    }

    /// Runs again and again while a run ends by an error that it says can be gone on from.
    pub(crate) async fn run_until_over(&self, choice: &KeyChoice) -> Report {
        for _ in 0..20 {
            match try_run_job(self.job(choice, Intent::Run).await).await {
                Ok(report) => return report,
                Err(error) => assert!(error.is_resumable(), "{error}"),
            }
        }
        panic!("20 attempts were not enough");
    }
}

/// A store with connections of its own, as another process has.
pub(crate) async fn connect(url: &str) -> Arc<dyn Store> {
    Arc::new(Postgres::connect(&SecretText::new(url.to_owned()), None, 8).await.unwrap())
}

pub(crate) async fn run_job(job: Job) -> Report {
    try_run_job(job).await.unwrap()
}

pub(crate) async fn try_run_job(job: Job) -> Result<Report, rekey::RekeyError> {
    let (_stop, signal) = rekey::stop_signal();
    rekey::run(job, signal, watch::Sender::default()).await
}

/// The data keys that the stored values need, unwrapped one by one beforehand.
pub(crate) struct IndependentKeys {
    wrapped: HashMap<Vec<u8>, Key>,
    bound: HashMap<[u8; 16], Key>,
}

impl IndependentKeys {
    pub(crate) async fn load(store: &dyn Store, stored: &[Stored], under: &Under<'_>) -> Self {
        let mut keys = Self { wrapped: HashMap::new(), bound: HashMap::new() };
        match under {
            Under::Static(_) => {}
            Under::Wrapped(keyring) => {
                let kms = LocalKms::open(keyring).unwrap();
                let values = stored.iter().flat_map(|row| &row.values).flatten();
                for (encrypted_dek, _) in values.filter_map(|value| oracle::split_v2(value)) {
                    if let Ok(key) = kms.decrypt(encrypted_dek, &Default::default()).await {
                        keys.wrapped.insert(encrypted_dek.to_vec(), *key.expose());
                    }
                }
            }
            Under::Aws(client) => {
                let values = stored.iter().flat_map(|row| &row.values).flatten();
                for (encrypted_dek, _) in values.filter_map(|value| oracle::split_v2(value)) {
                    if keys.wrapped.contains_key(encrypted_dek) {
                        continue;
                    }
                    let request = client.decrypt().ciphertext_blob(Blob::new(encrypted_dek));
                    if let Ok(answer) = request.send().await {
                        let key = answer.plaintext.unwrap().into_inner().try_into().unwrap();
                        keys.wrapped.insert(encrypted_dek.to_vec(), key);
                    }
                }
            }
            Under::Bound(keyring) => {
                let kms = LocalKms::open(keyring).unwrap();
                for row in store.data_keys(None).await.unwrap() {
                    let context = [("reseal:purpose", row.purpose), ("reseal:wrap", row.wrap_id.to_string())];
                    let context = context.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                    if let Ok(key) = kms.decrypt(&row.wrapped, &context).await {
                        keys.bound.insert(row.key_id, *key.expose());
                    }
                }
            }
        }
        keys
    }

    pub(crate) fn open(&self, under: &Under<'_>, cell: oracle::Cell<'_>, value: &[u8]) -> Option<Vec<u8>> {
        match under {
            Under::Static(key) => oracle::open_v1(key, value),
            Under::Wrapped(_) | Under::Aws(_) => {
                oracle::open_v2(value, |wrapped| self.wrapped.get(wrapped).copied())
            }
            Under::Bound(_) => oracle::open_v3(value, cell, |key_id| self.bound.get(&key_id).copied()),
        }
    }
}
