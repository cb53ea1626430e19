//! The table, those who write it, and what they know of it.
//!
//! Who writes a row holds it in memory from before the write until it is known what became of it. So what is known of
//! a row is what the database committed last, in the database's order. When the database crashes under a commit the
//! writer looks, and must find what was there or what he wrote.

use std::{
    collections::HashMap,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aws_sdk_kms::{primitives::Blob, types::DataKeySpec};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::{AssertSqlSafe, PgPool, Row, postgres::PgPoolOptions};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::support::{
    moto::Moto,
    oracle::{self, Cell, Key},
    postgres::TestDatabase,
    tenants::{COLUMNS, Expected, Holds, TABLE, Tenants, stored_in_postgres},
};

/// Rows that don't exist at first.
const UNBORN: usize = 2_000;

/// Data keys of the v2 values that are there at first.
const WRAPPED: usize = 20;

/// Which key a writer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    OldKey,
    NewKey,
}

/// What a row holds; `None` where there is none.
type Known = Option<[Holds; 2]>;

pub(super) struct World {
    pool: PgPool,
    rows: Vec<(Uuid, Mutex<Known>)>,
    old: Key,
    /// The v2 data keys, by their wrapped bytes.
    wrapped: HashMap<Vec<u8>, Key>,
    /// The data key of the new values, once there is one.
    new: OnceLock<Key>,
    /// Whether writers are to end.
    pub(super) is_over: AtomicBool,
    /// Writes that were committed.
    pub(super) writes: AtomicU64,
    /// Writes under an old key that the fence refused.
    pub(super) refused: AtomicU64,
    /// The KMS keys, as they are named to reseal.
    pub(super) old_kms: String,
    pub(super) new_kms: String,
}

impl World {
    /// Fills the table: one row in 50 is in v2, the others in v1.
    pub(super) async fn build(database: &TestDatabase<'_>, rows: usize, seed: u64) -> Self {
        let old: Key = StdRng::seed_from_u64(seed).random();
        let pool = PgPoolOptions::new()
            .max_connections(12)
            .acquire_timeout(Duration::from_secs(30))
            .connect_lazy(&database.url())
            .unwrap();
        let expected = Tenants { seed, rows, key: &old }.fill_postgres(&pool).await;
        let (client, old_arn, new_arn) = (
            Moto::shared().client().await,
            Moto::shared().create_key().await,
            Moto::shared().create_key().await,
        );
        let mut wrapped = HashMap::new();
        for _ in 0..WRAPPED {
            let request = client.generate_data_key().key_id(&old_arn).key_spec(DataKeySpec::Aes256);
            let made = request.send().await.unwrap();
            let key = made.plaintext.unwrap().into_inner().try_into().unwrap();
            wrapped.insert(made.ciphertext_blob.unwrap().into_inner(), key);
        }
        let data_keys: Vec<(&Vec<u8>, &Key)> = wrapped.iter().collect();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (number, (row, holds)) in expected.0.iter().enumerate().step_by(50) {
            let Holds::Sealed(text) = &holds[0] else { continue };
            let (blob, key) = data_keys[number / 50 % WRAPPED];
            keys.push(*row);
            values.push(oracle::seal_v2(key, blob, text.as_bytes()));
        }
        let set = "UPDATE org_instances SET database_url_encrypted = v.value \
                   FROM unnest($1::uuid[], $2::bytea[]) v (key, value) WHERE org_id = v.key";
        sqlx::query(set).bind(keys).bind(values).execute(&pool).await.unwrap();
        sqlx::query("ANALYZE org_instances").execute(&pool).await.unwrap();

        let unborn = (0..UNBORN).map(|_| (Uuid::new_v4(), Mutex::new(None)));
        let rows =
            expected.0.into_iter().map(|(row, holds)| (row, Mutex::new(Some(holds)))).chain(unborn).collect();
        Self {
            pool,
            rows,
            old,
            wrapped,
            new: OnceLock::new(),
            is_over: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            old_kms: format!("aws-kms:{old_arn}"),
            new_kms: format!("aws-kms:{new_arn}"),
        }
    }

    /// The old static key as it is given to reseal.
    pub(super) fn old_key(&self) -> String {
        hex::encode(self.old)
    }

    /// The data key of the new values, unwrapped by the KMS itself, once it is registered.
    pub(super) async fn find_new_key(&self) -> Option<()> {
        let find = "SELECT wrapped, purpose, wrap_id::text FROM reseal_data_keys";
        let row = sqlx::query(find).fetch_optional(&self.pool).await.unwrap()?;
        let request =
            Moto::shared().client().await.decrypt().ciphertext_blob(Blob::new(row.get::<Vec<u8>, _>(0)));
        let request = request.encryption_context("reseal:purpose", row.get::<String, _>(1));
        let answer = request.encryption_context("reseal:wrap", row.get::<String, _>(2)).send().await.unwrap();
        self.new.set(answer.plaintext.unwrap().into_inner().try_into().unwrap()).unwrap();
        Some(())
    }

    pub(super) async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&self.pool).await.unwrap()
    }

    /// Everybody is presumed dead.
    pub(super) async fn expire_leases(&self) {
        let expire = "UPDATE reseal_shards SET lease_until = NULL WHERE NOT done";
        // Connections from before a crash are found dead one by one.
        while sqlx::query(expire).execute(&self.pool).await.is_err() {}
    }

    /// Every way in which the table is not what those who wrote it know.
    pub(super) async fn differences(&self) -> Vec<String> {
        let mut expected = Expected::default();
        for (row, known) in &self.rows {
            if let Some(holds) = known.lock().await.clone() {
                expected.0.insert(*row, holds);
            }
        }
        let stored = stored_in_postgres(&self.pool).await;
        expected.differences(&stored, |cell, value| oracle::open_v3(value, cell, |_| self.new.get().copied()))
    }

    /// Changes rows at random until all is over.
    pub(super) async fn write(self: std::sync::Arc<Self>, writer: Writer, seed: u64) {
        let mut dice = StdRng::seed_from_u64(seed.rotate_left(8) ^ writer as u64);
        for number in 0.. {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let (row, known) = &self.rows[dice.random_range(0..self.rows.len())];
            let mut known = known.lock().await;
            let text = format!("{writer:?}/{seed}/{number}");
            let (change, after) = Change::random(&known, text, &mut dice);
            match self.make(writer, *row, &change, &mut dice).await {
                Ok(()) => {
                    *known = after;
                    self.writes.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let refused = writer == Writer::OldKey && is_refused(&error);
                    assert!(refused || is_lost(&error), "{error}");
                    self.refused.fetch_add(u64::from(refused), Ordering::Relaxed);
                    let found = self.look(*row).await;
                    assert!(!refused || found == *known, "{row}: it was refused, and it changed");
                    assert!(
                        found == *known || found == after,
                        "{row}: neither what was there nor what was written"
                    );
                    *known = found;
                }
            }
            drop(known);
            tokio::time::sleep(Duration::from_millis(dice.random_range(1..8))).await;
        }
    }

    /// One statement, one transaction.
    async fn make(&self, writer: Writer, row: Uuid, change: &Change, dice: &mut StdRng) -> sqlx::Result<()> {
        let mut seal = |column, holds: &Holds| self.seal(writer, row, column, holds, dice);
        let query = match change {
            Change::Insert(holds) => {
                let [database_url, redis_url] = [seal(0, &holds[0]), seal(1, &holds[1])];
                let insert = "INSERT INTO org_instances (org_id, slug, fly_app, fly_region, status, \
                              database_url_encrypted, redis_url_encrypted) VALUES ($1, '', '', '', '', $2, $3)";
                sqlx::query(insert).bind(row).bind(database_url).bind(redis_url)
            }
            Change::Update(column, holds) => {
                let update = format!("UPDATE org_instances SET {} = $2 WHERE org_id = $1", COLUMNS[*column]);
                sqlx::query(AssertSqlSafe(update)).bind(row).bind(seal(*column, holds))
            }
            Change::Delete => sqlx::query("DELETE FROM org_instances WHERE org_id = $1").bind(row),
        };
        let done = query.execute(&self.pool).await?;
        assert_eq!(done.rows_affected(), 1, "{row} is there, or is not, as its writers know");
        Ok(())
    }

    fn seal(
        &self,
        writer: Writer,
        row: Uuid,
        column: usize,
        holds: &Holds,
        dice: &mut StdRng,
    ) -> Option<Vec<u8>> {
        let text = match holds {
            Holds::Null => return None,
            Holds::ZeroLength => return Some(Vec::new()),
            Holds::Sealed(text) => text.as_bytes(),
        };
        Some(match writer {
            Writer::OldKey if dice.random_bool(0.1) => {
                let (blob, key) = self.wrapped.iter().nth(dice.random_range(0..WRAPPED)).expect("so many");
                oracle::seal_v2(key, blob, text)
            }
            Writer::OldKey => oracle::seal_v1(&self.old, None, text),
            Writer::NewKey => {
                let cell = Cell { table: TABLE, column: COLUMNS[column], row: &row.to_string() };
                oracle::seal_v3(self.new.get().expect("it is found before anybody writes"), cell, text)
            }
        })
    }

    /// What a row holds, once the database is there again.
    async fn look(&self, row: Uuid) -> Known {
        let select =
            "SELECT database_url_encrypted, redis_url_encrypted FROM org_instances WHERE org_id = $1";
        let since = Instant::now();
        let found = loop {
            match sqlx::query(select).bind(row).fetch_optional(&self.pool).await {
                Ok(found) => break found?,
                Err(error) => assert!(since.elapsed() < Duration::from_secs(60), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        Some([0, 1].map(|column| match found.get::<Option<Vec<u8>>, _>(column) {
            None => Holds::Null,
            Some(value) if value.is_empty() => Holds::ZeroLength,
            Some(value) => {
                let cell = Cell { table: TABLE, column: COLUMNS[column], row: &row.to_string() };
                let opened = oracle::open_v3(&value, cell, |_| self.new.get().copied())
                    .or_else(|| oracle::open_v1(&self.old, &value))
                    .or_else(|| oracle::open_v2(&value, |blob| self.wrapped.get(blob).copied()));
                Holds::Sealed(String::from_utf8(opened.expect("one of the keys opens it")).unwrap())
            }
        }))
    }
}

/// What a writer does to a row.
enum Change {
    Insert([Holds; 2]),
    Update(usize, Holds),
    Delete,
}

impl Change {
    /// A change of what is there, and what is there then.
    fn random(known: &Known, text: String, dice: &mut StdRng) -> (Self, Known) {
        let Some(known) = known else {
            let holds = [Holds::Sealed(format!("postgres://{text}")), Holds::Null];
            return (Self::Insert(holds.clone()), Some(holds));
        };
        let mut after = known.clone();
        match dice.random_range(0..100) {
            0..2 => return (Self::Delete, None),
            2..5 => after[1] = Holds::Null,
            5..8 => after[1] = Holds::ZeroLength,
            8..40 => after[1] = Holds::Sealed(format!("rediss://{text}")),
            _ => after[0] = Holds::Sealed(format!("postgres://{text}")),
        }
        let column = usize::from(after[0] == known[0]);
        (Self::Update(column, after[column].clone()), Some(after))
    }
}

/// Whether the fence refused a write.
fn is_refused(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "RK001")
}

/// Whether the way to the database was lost, so that nobody said what became of a statement.
fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P")),
        _ => true,
    }
}
