//! The program that owns the table: it writes all the while, and remembers what it wrote.
//!
//! Invariant: when no method is under way, the ledger holds the SHA-256 of the plaintext that this program last
//! committed to every cell, and of no other row. It knows nothing of runs, so that it can judge them.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    path::Path,
    sync::Arc,
    time::Duration,
};

use aes_gcm::{Aes256Gcm, KeyInit, Nonce, aead::AeadInOut};
use futures_util::TryStreamExt;
use rand::{Rng, RngExt};
use reseal::{
    keyring::{Attempt, Sealer},
    rekey::{Job, RekeyError},
    secret::{Plaintext, StaticKey},
};
use sha2::{Digest, Sha256};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, QueryBuilder, Sqlite, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};
use tokio::{sync::Mutex, time::sleep};
use uuid::Uuid;

use super::tenants::{COLUMNS, DDL, TABLE, Tenant, database_url, redis_url};
use crate::cli::Fault;

/// Between two writes.
const PAUSE: Duration = Duration::from_millis(4);

/// Rows a statement; SQLite binds at most 32,766 values.
const ROWS_A_STATEMENT: usize = 500;

/// Of what did not hold, how much is told.
const MOST_TOLD: usize = 5;

type Hash = [u8; 32];

/// The program, its database connection and its ledger.
pub(super) struct ControlPlane {
    db: SqliteConnection,
    ledger: BTreeMap<Uuid, [Option<Hash>; 2]>,
    old: StaticWriter,
    /// What it seals with since it was told of the new key.
    new: Option<Arc<Sealer>>,
    writes: i64,
}

/// Writes for ever, whenever nobody else has the control plane.
pub(super) async fn keep_writing(plane: &Mutex<ControlPlane>) -> Result<Infallible, Fault> {
    loop {
        plane.lock().await.write().await?;
        sleep(PAUSE).await;
    }
}

impl ControlPlane {
    /// Makes the table in the database at `path`, empty.
    pub(super) async fn new(path: &Path, old: &StaticKey) -> Result<Self, Fault> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(Duration::from_secs(10))
            .synchronous(SqliteSynchronous::Normal)
            .disable_statement_logging();
        let mut db = options.connect().await.map_err(trouble)?;
        sqlx::query(DDL).execute(&mut db).await.map_err(trouble)?;
        Ok(Self { db, ledger: BTreeMap::new(), old: StaticWriter::new(old), new: None, writes: 0 })
    }

    /// Adds `count` tenants.
    pub(super) async fn add(&mut self, count: usize) -> Result<(), Fault> {
        for first in (0..count).step_by(ROWS_A_STATEMENT) {
            let tenants = (first..count.min(first + ROWS_A_STATEMENT)).map(|_| Tenant::new());
            self.insert(&tenants.collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// Adds `count` tenants under the old key, as a machine does that was never told of the new one.
    pub(super) async fn add_late(&mut self, count: usize) -> Result<(), Fault> {
        let new = self.new.take();
        let added = self.add(count).await;
        self.new = new;
        added
    }

    /// From now on it seals with `sealer`.
    pub(super) fn adopt(&mut self, sealer: Arc<Sealer>) {
        self.new = Some(sealer);
    }

    /// Ends the leases of a worker that is dead, as time would within 20 s.
    pub(super) async fn end_leases(&mut self) -> Result<(), Fault> {
        let ended = sqlx::query("UPDATE reseal_shards SET lease_until = 0 WHERE lease_until IS NOT NULL");
        ended.execute(&mut self.db).await.map(drop).map_err(trouble)
    }

    /// How many single writes it has done.
    pub(super) fn writes(&self) -> i64 {
        self.writes
    }

    /// How many rows it has.
    pub(super) fn rows(&self) -> i64 {
        count(self.ledger.len())
    }

    /// How many cells hold a value.
    pub(super) fn values(&self) -> i64 {
        count(self.ledger.values().flatten().flatten().count())
    }

    /// Opens every cell of the table, and compares it with the ledger.
    pub(super) async fn audit(&mut self, job: &Job) -> Result<Audit, Fault> {
        let mut audit = Audit::default();
        let mut unseen = self.ledger.keys().copied().collect::<BTreeSet<_>>();
        let mut plaintext = Plaintext::new();
        let select = format!("SELECT org_id, {} FROM {TABLE}", COLUMNS.join(", "));
        let mut rows = sqlx::query_as::<_, (String, Option<Vec<u8>>, Option<Vec<u8>>)>(AssertSqlSafe(select))
            .fetch(&mut self.db);
        while let Some((row, database, redis)) = rows.try_next().await.map_err(trouble)? {
            let known = row.parse().ok().filter(|org_id| unseen.remove(org_id));
            let Some(known) = known.and_then(|org_id| self.ledger.get(&org_id)) else {
                audit.differs(&row, "org_id", "is there, and never was written");
                continue;
            };
            for (column, (stored, hash)) in [database, redis].into_iter().zip(known).enumerate() {
                let name = COLUMNS[column];
                let (stored, hash) = match (stored, hash) {
                    (Some(stored), Some(hash)) => (stored, hash),
                    (None, None) => {
                        audit.empty += 1;
                        continue;
                    }
                    (None, Some(_)) => {
                        audit.differs(&row, name, "became NULL");
                        continue;
                    }
                    (Some(_), None) => {
                        audit.differs(&row, name, "is no longer NULL");
                        continue;
                    }
                };
                match job.opener.open(column, &row, &stored, &mut plaintext).await? {
                    Attempt::Opened(_) if digest(&plaintext) != *hash => {
                        audit.differs(&row, name, "opens to another plaintext");
                    }
                    Attempt::Opened(origin) if job.sealer.is_current(&origin) => audit.new += 1,
                    Attempt::Opened(_) => audit.old += 1,
                    Attempt::Refused(_) | Attempt::Wrapped => audit.differs(&row, name, "does not open"),
                }
            }
        }
        unseen.iter().for_each(|row| audit.differs(&row.to_string(), "org_id", "is gone"));
        Ok(audit)
    }

    /// Lets the database go.
    pub(super) async fn close(self) -> Result<(), Fault> {
        self.db.close().await.map_err(trouble)
    }

    /// One write, as they come in life: mostly new credentials, now and then a tenant more or less.
    async fn write(&mut self) -> Result<(), Fault> {
        let dice = rand::rng().random_range(0..100);
        match (dice, self.any_row()) {
            (0..8, _) | (_, None) => self.insert(&[Tenant::new()]).await?,
            (8..14, Some(row)) => self.delete(row).await?,
            (14..20, Some(row)) => self.set(row, 1, None).await?,
            (20..60, Some(row)) => self.set(row, 1, Some(redis_url())).await?,
            (_, Some(row)) => self.set(row, 0, Some(database_url())).await?,
        }
        self.writes += 1;
        Ok(())
    }

    /// Row keys are random: the next one after a random key is as good as any.
    fn any_row(&self) -> Option<Uuid> {
        let after = self.ledger.range(Uuid::new_v4()..).next();
        after.or_else(|| self.ledger.first_key_value()).map(|(row, _)| *row)
    }

    async fn insert(&mut self, tenants: &[Tenant]) -> Result<(), Fault> {
        let mut sealed = Vec::with_capacity(tenants.len());
        for tenant in tenants {
            let mut values = [None, None];
            for (column, url) in tenant.urls.iter().enumerate() {
                if let Some(url) = url {
                    values[column] = Some(self.seal(tenant.org_id, column, url).await?);
                }
            }
            sealed.push(values);
        }
        let columns = COLUMNS.join(", ");
        let mut insert = QueryBuilder::<Sqlite>::new(format!(
            "INSERT INTO {TABLE} (org_id, slug, fly_app, fly_region, {columns}) "
        ));
        insert.push_values(tenants.iter().zip(sealed), |mut row, (tenant, [database, redis])| {
            row.push_bind(tenant.org_id.to_string())
                .push_bind(tenant.slug.clone())
                .push_bind(format!("tenant-{}", tenant.slug))
                .push_bind(tenant.region)
                .push_bind(database)
                .push_bind(redis);
        });
        insert.build().execute(&mut self.db).await.map_err(trouble)?;
        for tenant in tenants {
            let [database, redis] = &tenant.urls;
            self.ledger.insert(tenant.org_id, [database, redis].map(|url| url.as_ref().map(digest)));
        }
        Ok(())
    }

    async fn delete(&mut self, row: Uuid) -> Result<(), Fault> {
        let delete = sqlx::query(AssertSqlSafe(format!("DELETE FROM {TABLE} WHERE org_id = ?")));
        delete.bind(row.to_string()).execute(&mut self.db).await.map_err(trouble)?;
        self.ledger.remove(&row);
        Ok(())
    }

    async fn set(&mut self, row: Uuid, column: usize, url: Option<Plaintext>) -> Result<(), Fault> {
        let sealed = match &url {
            Some(url) => Some(self.seal(row, column, url).await?),
            None => None,
        };
        let update = format!("UPDATE {TABLE} SET {} = ? WHERE org_id = ?", COLUMNS[column]);
        let update = sqlx::query(AssertSqlSafe(update)).bind(sealed).bind(row.to_string());
        update.execute(&mut self.db).await.map_err(trouble)?;
        if let Some(cells) = self.ledger.get_mut(&row) {
            cells[column] = url.as_ref().map(digest);
        }
        Ok(())
    }

    async fn seal(&mut self, row: Uuid, column: usize, url: &Plaintext) -> Result<Vec<u8>, Fault> {
        let Some(sealer) = &self.new else { return Ok(self.old.seal(url)) };
        let row_keys = sealer.row_keys().await?;
        let (mut sealed, mut check) = (Vec::new(), Plaintext::new());
        sealer
            .seal(column, &row.to_string(), row_keys.as_ref(), url, &mut sealed, &mut check)
            .map_err(RekeyError::Proof)?;
        Ok(sealed)
    }
}

/// What an audit found, in cells.
#[derive(Default)]
pub(super) struct Audit {
    /// Under the old key.
    pub(super) old: i64,
    /// Under the new key.
    pub(super) new: i64,
    /// NULL, as they should be.
    pub(super) empty: i64,
    differences: Vec<String>,
}

impl Audit {
    fn differs(&mut self, row: &str, column: &str, how: &str) {
        self.differences.push(format!("row {row}, column {column} {how}"));
    }

    /// The same, if every cell holds what the ledger says.
    pub(super) fn holds(self) -> Result<Self, Fault> {
        if self.differences.is_empty() {
            return Ok(self);
        }
        let told = self.differences[..self.differences.len().min(MOST_TOLD)].join("; ");
        Err(Fault::failed(format!("{} cells are not what was last written: {told}", self.differences.len())))
    }
}

/// Seals v1 values as programs do that let any nonce be: one in 128 begins as a value of a newer format does.
struct StaticWriter {
    cipher: Aes256Gcm,
    /// Begins of the next nonces, last one first, so that even the smallest table has such values.
    first_bytes: Vec<u8>,
}

impl StaticWriter {
    fn new(key: &StaticKey) -> Self {
        Self { cipher: Aes256Gcm::new(key.expose().into()), first_bytes: vec![0x03, 0x02] }
    }

    fn seal(&mut self, plaintext: &Plaintext) -> Vec<u8> {
        let mut nonce = [0; 12];
        rand::rng().fill_bytes(&mut nonce);
        if let Some(byte) = self.first_bytes.pop() {
            nonce[0] = byte;
        }
        let mut value = [&nonce, plaintext.expose()].concat();
        let tag = self
            .cipher
            .encrypt_inout_detached(&Nonce::from(nonce), b"", value[nonce.len()..].as_mut().into())
            .expect("a URL is within the limit of GCM");
        value.extend_from_slice(&tag);
        value
    }
}

fn digest(plaintext: &Plaintext) -> Hash {
    Sha256::digest(plaintext.expose()).into()
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn trouble(error: sqlx::Error) -> Fault {
    Fault::failed(format!("the drill's own database: {error}"))
}
