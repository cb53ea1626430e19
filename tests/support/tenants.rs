//! Tenants as the control plane keeps them: the table `org_instances` in PostgreSQL and in SQLite, filled with v1
//! values whose plaintexts are known.
//!
//! Everything about a tenant, its nonces included, follows from a seed and the row's number, so that a failure can
//! be had again. About one value in 256 starts with 0x02 and one with 0x03, as in life.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use sha2::{Digest, Sha256};
use sqlx::{PgPool, QueryBuilder, Row, Sqlite, SqlitePool, types::Uuid};

use super::oracle::{self, Cell, Key};

/// The table of the tenants.
pub(crate) const TABLE: &str = "org_instances";

/// The encrypted columns, in the order of [`Tenant::holds`].
pub(crate) const COLUMNS: [&str; 2] = ["database_url_encrypted", "redis_url_encrypted"];

/// The table in PostgreSQL.
pub(crate) const POSTGRES_DDL: &str = "
    CREATE TABLE org_instances (
        org_id uuid PRIMARY KEY,
        slug text NOT NULL,
        fly_app text NOT NULL,
        fly_machine_id text,
        fly_region text NOT NULL,
        neon_project_id text,
        neon_branch_id text,
        status text NOT NULL,
        database_url_encrypted bytea NOT NULL,
        redis_url_encrypted bytea,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now()
    )";

/// The table in SQLite.
pub(crate) const SQLITE_DDL: &str = "
    CREATE TABLE org_instances (
        org_id TEXT PRIMARY KEY NOT NULL,
        slug TEXT NOT NULL,
        fly_app TEXT NOT NULL,
        fly_machine_id TEXT,
        fly_region TEXT NOT NULL,
        neon_project_id TEXT,
        neon_branch_id TEXT,
        status TEXT NOT NULL,
        database_url_encrypted BLOB NOT NULL,
        redis_url_encrypted BLOB,
        created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
        updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
    )";

/// `rows` tenants whose values are sealed in v1 under `key`.
pub(crate) struct Tenants<'a> {
    pub(crate) seed: u64,
    pub(crate) rows: usize,
    pub(crate) key: &'a Key,
}

impl Tenants<'_> {
    /// Makes the table and fills it.
    pub(crate) async fn fill_postgres(&self, pool: &PgPool) -> Expected {
        sqlx::raw_sql(POSTGRES_DDL).execute(pool).await.expect("the database has no such table yet");
        let mut connection = pool.acquire().await.expect("the server has a connection to give");
        let mut copy =
            connection.copy_in_raw("COPY org_instances FROM STDIN").await.expect("the table is there");
        let (mut expected, mut lines) = (Expected::default(), String::new());
        for number in 0..self.rows {
            let tenant = Tenant::new(self.seed, number);
            for text in tenant.texts() {
                lines += text;
                lines.push('\t');
            }
            for (column, holds) in tenant.holds.iter().enumerate() {
                match holds.stored(self.key, tenant.nonce(column)) {
                    Some(value) => write!(lines, r"\\x{}", hex::encode(value)).expect("a String takes all"),
                    None => lines += r"\N",
                }
                lines.push('\t');
            }
            writeln!(lines, "{}\t{}", tenant.created_at, tenant.updated_at).expect("a String takes all");
            expected.0.insert(tenant.org_id, tenant.holds);
            if lines.len() > 1 << 20 {
                copy.send(lines.as_bytes()).await.expect("the server takes the rows");
                lines.clear();
            }
        }
        copy.send(lines.as_bytes()).await.expect("the server takes the rows");
        copy.finish().await.expect("the rows fit the table");
        expected
    }

    /// Makes the table and fills it.
    pub(crate) async fn fill_sqlite(&self, pool: &SqlitePool) -> Expected {
        /// 12 values a row, and SQLite binds at most 32,766 a statement.
        const ROWS_A_STATEMENT: usize = 1000;

        let mut transaction = pool.begin().await.expect("the database opens");
        sqlx::raw_sql(SQLITE_DDL)
            .execute(&mut *transaction)
            .await
            .expect("the database has no such table yet");
        let mut expected = Expected::default();
        for first in (0..self.rows).step_by(ROWS_A_STATEMENT) {
            let numbers = first..self.rows.min(first + ROWS_A_STATEMENT);
            let tenants = numbers.map(|number| Tenant::new(self.seed, number)).collect::<Vec<_>>();
            let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO org_instances ");
            insert.push_values(&tenants, |mut row, tenant| {
                for text in tenant.texts() {
                    row.push_bind(text.to_owned());
                }
                for (column, holds) in tenant.holds.iter().enumerate() {
                    row.push_bind(holds.stored(self.key, tenant.nonce(column)));
                }
                row.push_bind(tenant.created_at.clone()).push_bind(tenant.updated_at.clone());
            });
            insert.build().execute(&mut *transaction).await.expect("the rows fit the table");
            expected.0.extend(tenants.into_iter().map(|tenant| (tenant.org_id, tenant.holds)));
        }
        transaction.commit().await.expect("the disk has room");
        expected
    }
}

/// What a cell stands for, whatever key and format it is under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// NULL.
    Null,
    /// A value of no bytes, which holds nothing.
    ZeroLength,
    /// A sealed plaintext, which may be empty.
    Sealed(String),
}

impl Holds {
    fn stored(&self, key: &Key, nonce: [u8; 12]) -> Option<Vec<u8>> {
        match self {
            Self::Null => None,
            Self::ZeroLength => Some(Vec::new()),
            Self::Sealed(plaintext) => Some(oracle::seal_v1(key, Some(nonce), plaintext.as_bytes())),
        }
    }
}

/// One row, before its values are sealed.
struct Tenant {
    random: [u8; 32],
    org_id: Uuid,
    org_id_text: String,
    slug: String,
    fly_app: String,
    fly_machine_id: String,
    fly_region: &'static str,
    neon_project_id: String,
    neon_branch_id: String,
    status: &'static str,
    holds: [Holds; 2],
    created_at: String,
    updated_at: String,
}

impl Tenant {
    fn new(seed: u64, number: usize) -> Self {
        const WORDS: [&str; 8] = ["quiet", "amber", "lucky", "frosty", "silent", "misty", "bold", "odd"];
        const THINGS: [&str; 8] = ["river", "sun", "fog", "pine", "leaf", "meadow", "rain", "grass"];
        const REGIONS: [&str; 4] = ["iad", "fra", "syd", "gru"];

        let random = digest(&[&seed.to_be_bytes(), &number.to_be_bytes()]);
        let id = |label: &str| hex::encode(digest(&[&random, label.as_bytes()]));
        let pick = |words: &[&'static str; 8], byte: usize| words[usize::from(random[byte] % 8)];
        let (word, thing) = (pick(&WORDS, 0), pick(&THINGS, 1));
        let slug = format!("{word}-{thing}-{}", &id("slug")[..8]);

        // One in 256 is still being made and has no database yet; three in ten have no Redis.
        let database_url = match random[2] {
            0 => Holds::ZeroLength,
            _ => Holds::Sealed(format!(
                "postgres://tenant_{}:npg_{}@ep-{word}-{thing}-{}-pooler.eu-central-1.aws.neon.tech/main?sslmode=require",
                &id("role")[..8],
                &id("postgres password")[..24],
                &id("endpoint")[..8],
            )),
        };
        let redis_url = match random[3] {
            0..77 => Holds::Null,
            77 => Holds::ZeroLength,
            78 => Holds::Sealed(String::new()),
            _ => Holds::Sealed(format!(
                "rediss://default:{}@{word}-{thing}-{}.upstash.io:6379",
                &id("redis password")[..40],
                &id("redis")[..5],
            )),
        };
        let org_id = sqlx::types::uuid::Builder::from_slice(&random[16..]).expect("16 bytes");
        let org_id = org_id.with_version(uuid::Version::Random).into_uuid();
        let day = format!(
            "{:02}-{:02}T{:02}:{:02}:00Z",
            1 + random[4] % 12,
            1 + random[5] % 28,
            random[6] % 24,
            random[7] % 60
        );
        Self {
            random,
            org_id,
            org_id_text: org_id.to_string(),
            fly_app: format!("tenant-{slug}"),
            fly_machine_id: id("machine")[..14].to_owned(),
            fly_region: REGIONS[usize::from(random[8] % 4)],
            neon_project_id: format!("{word}-{thing}-{}", &id("project")[..8]),
            neon_branch_id: format!("br-{thing}-{word}-{}", &id("branch")[..8]),
            status: if database_url == Holds::ZeroLength { "provisioning" } else { "active" },
            slug,
            holds: [database_url, redis_url],
            created_at: format!("2024-{day}"),
            updated_at: format!("2025-{day}"),
        }
    }

    /// The columns before the encrypted ones, in the order of the table.
    fn texts(&self) -> [&str; 8] {
        [
            &self.org_id_text,
            &self.slug,
            &self.fly_app,
            &self.fly_machine_id,
            self.fly_region,
            &self.neon_project_id,
            &self.neon_branch_id,
            self.status,
        ]
    }

    fn nonce(&self, column: usize) -> [u8; 12] {
        *digest(&[&self.random, COLUMNS[column].as_bytes()]).first_chunk().expect("a digest has 32 bytes")
    }
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// What every cell must still hold at the end.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Expected(pub(crate) BTreeMap<Uuid, [Holds; 2]>);

/// A row as it is read back: the primary key as text, and the encrypted columns.
pub(crate) struct Stored {
    pub(crate) org_id: String,
    pub(crate) values: [Option<Vec<u8>>; 2],
}

impl Expected {
    /// How many cells hold a sealed plaintext; the others are NULL or of zero length.
    pub(crate) fn sealed(&self) -> usize {
        self.0.values().flatten().filter(|holds| matches!(holds, Holds::Sealed(_))).count()
    }

    /// Every way in which `stored` is not what was filled in, by row and column and without plaintexts. `open` opens
    /// a value of a cell, with the oracle and whatever keys the test knows to be right.
    pub(crate) fn differences(
        &self,
        stored: &[Stored],
        mut open: impl FnMut(Cell<'_>, &[u8]) -> Option<Vec<u8>>,
    ) -> Vec<String> {
        let mut differences = Vec::new();
        let mut missing = self.0.keys().copied().collect::<BTreeSet<_>>();
        for row in stored {
            let org_id = row.org_id.parse::<Uuid>().ok().filter(|org_id| missing.remove(org_id));
            let Some(org_id) = org_id else {
                differences.push(format!("{}: not one of the rows, or there twice", row.org_id));
                continue;
            };
            for ((column, holds), value) in COLUMNS.into_iter().zip(&self.0[&org_id]).zip(&row.values) {
                let verdict = match (holds, value.as_deref()) {
                    (Holds::Null, None) | (Holds::ZeroLength, Some([])) => continue,
                    (Holds::Sealed(plaintext), Some(value)) => {
                        match open(Cell { table: TABLE, column, row: &row.org_id }, value) {
                            Some(opened) if opened == plaintext.as_bytes() => continue,
                            Some(_) => "opens to another plaintext",
                            None => "does not open",
                        }
                    }
                    (_, None) => "became NULL",
                    (_, Some(_)) => "held nothing and was changed",
                };
                differences.push(format!("{} {column}: {verdict}", row.org_id));
            }
        }
        differences.extend(missing.iter().map(|org_id| format!("{org_id}: the row is gone")));
        differences
    }
}

const READ_BACK: &str =
    "SELECT CAST(org_id AS text), database_url_encrypted, redis_url_encrypted FROM org_instances";

/// Every row of the table.
pub(crate) async fn stored_in_postgres(pool: &PgPool) -> Vec<Stored> {
    let rows = sqlx::query(READ_BACK).fetch_all(pool).await.expect("the table is there");
    rows.iter().map(|row| Stored { org_id: row.get(0), values: [row.get(1), row.get(2)] }).collect()
}

/// Every row of the table.
pub(crate) async fn stored_in_sqlite(pool: &SqlitePool) -> Vec<Stored> {
    let rows = sqlx::query(READ_BACK).fetch_all(pool).await.expect("the table is there");
    rows.iter().map(|row| Stored { org_id: row.get(0), values: [row.get(1), row.get(2)] }).collect()
}
