//! Postgres: the run, a plain `UPDATE`, and what else one could use.

use std::{
    fs,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reseal::{
    envelope::Format,
    rekey::Options,
    secret::SecretText,
    store::{Store, postgres::Postgres},
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio::process::Command;

use crate::{
    Asked,
    job::{Keys, OLD, To, rekey},
    measure::{Times, median},
    support::{
        postgres::{TempPostgres, TestDatabase},
        tenants,
    },
};

/// Halves a table of random uuids.
const MIDDLE: &str = "80000000-0000-0000-0000-000000000000";

const V3: To = To { format: Format::V3, new_data_key: false };

/// One row in so many is enough to time pgcrypto on.
const PGCRYPTO_SHARE: u32 = 200;

/// pgcrypto has no AES-GCM. The nearest that it has with authentication is an OpenPGP message.
const PGCRYPTO: &str = "UPDATE org_instances SET \
     database_url_encrypted = pgp_sym_encrypt_bytea(pgp_sym_decrypt_bytea(database_url_encrypted, 'old'), 'new', \
     'cipher-algo=aes256'), redis_url_encrypted = pgp_sym_encrypt_bytea(pgp_sym_decrypt_bytea(redis_url_encrypted, \
     'old'), 'new', 'cipher-algo=aes256')";

pub(crate) async fn measure(asked: &Asked) {
    let cluster = TempPostgres::start_with(&[
        if asked.cold { "shared_buffers = '64MB'" } else { "shared_buffers = '1GB'" },
        "max_wal_size = '8GB'",
        "checkpoint_timeout = '30min'",
        "autovacuum = off",
    ]);
    let database = cluster.database("bench");
    let pool = database.pool();
    let bench = Bench::new(asked, &database, &pool).await;
    let mut times = Times::default();
    if asked.foreground {
        return bench.foreground().await;
    }
    for _ in 0..asked.rounds {
        bench.round(&mut times).await;
    }
    println!("\nPostgres, {} rows of two columns, median of {}:", asked.rows, asked.rounds);
    times.report(asked.rows, "T1");
}

struct Bench<'a> {
    asked: &'a Asked,
    pool: &'a PgPool,
    url: String,
    store: Arc<dyn Store>,
    keys: Keys,
    _folder: tempfile::TempDir,
}

impl<'a> Bench<'a> {
    async fn new(asked: &'a Asked, database: &TestDatabase<'_>, pool: &'a PgPool) -> Self {
        tenants::Tenants { seed: 1, rows: asked.rows, key: &OLD }.fill_postgres(pool).await;
        pool.execute("ALTER TABLE org_instances RENAME TO template").await.expect("renames");
        let url = database.url();
        let store = Postgres::connect(&SecretText::new(url.clone()), None, 16).await.expect("connects");
        store.migrate().await.expect("migrates");
        let folder = tempfile::tempdir().expect("a folder can be had");
        let keys = Keys::new(folder.path());
        Self { asked, pool, url, store: Arc::new(store), keys, _folder: folder }
    }

    async fn round(&self, times: &mut Times) {
        let rows = self.asked.rows;
        if self.asked.wants("T1") {
            self.make_table().await;
            times.measure("T1", rows, self.update("true")).await;
        }
        if self.asked.wants("T2") {
            self.make_table().await;
            let (low, high) = (format!("org_id < '{MIDDLE}'"), format!("org_id >= '{MIDDLE}'"));
            let halves = async {
                tokio::join!(self.update(&low), self.update(&high));
            };
            times.measure("T2", rows, halves).await;
        }
        for (what, format) in [("v1→v3", Format::V3), ("v1→v2", Format::V2)] {
            if self.asked.wants(what) {
                self.make_table().await;
                times.measure(what, rows, self.rekey(To { format, new_data_key: false })).await;
            }
        }
        if self.asked.wants("v3→v3") {
            self.make_table().await;
            self.rekey(V3).await;
            // As restored, once more: without the first run's dead rows.
            self.run(&["VACUUM FULL ANALYZE org_instances", "CHECKPOINT"]).await;
            self.cool();
            times.measure("v3→v3", rows, self.rekey(To { new_data_key: true, ..V3 })).await;
        }
        if self.asked.wants("v1→v3 by two") {
            let halved = self.asked.halved();
            self.make_table().await;
            let two = async {
                tokio::join!(self.rekey_with(V3, &halved), self.rekey_with(V3, &halved));
            };
            times.measure("v1→v3 by two", rows, two).await;
        }
        if let Some(python) = &self.asked.peers {
            self.make_table().await;
            times.measure("script", rows, self.script(python)).await;
            self.pgcrypto(times).await;
        }
    }

    async fn rekey(&self, to: To) {
        self.rekey_with(to, &self.asked.options).await;
    }

    async fn rekey_with(&self, to: To, options: &Options) {
        rekey(Arc::clone(&self.store), &self.keys, to, options).await;
    }

    /// How many single random rows a second a client updates: alone, beside a run at full speed, and beside one that is
    /// held to half of that. A round's two ratios are to its own time alone.
    async fn foreground(&self) {
        println!("\n| a client's updates of single rows | a second | of alone |\n|---|---|---|");
        let (mut beside_one, mut beside_half) = (Vec::new(), Vec::new());
        for _ in 0..self.asked.rounds {
            self.make_table().await;
            let alone = self.client(tokio::time::sleep(Duration::from_secs(5))).await;
            self.make_table().await;
            let started = Instant::now();
            let beside = self.client(self.rekey(V3)).await;
            let speed = self.asked.rows as f64 / started.elapsed().as_secs_f64();
            self.make_table().await;
            let options =
                Options { max_rows_per_second: Some((speed / 2.0) as u32), ..self.asked.options.clone() };
            let throttled = self.client(self.rekey_with(V3, &options)).await;
            println!("| alone | {alone:.0} | |");
            for (what, rate, ratios) in [
                ("beside a run", beside, &mut beside_one),
                ("beside one at half speed", throttled, &mut beside_half),
            ] {
                println!("| {what} | {rate:.0} | {:.0} % |", rate / alone * 100.0);
                ratios.push(rate / alone * 100.0);
            }
        }
        let (one, half) = (median(beside_one.into_iter()), median(beside_half.into_iter()));
        println!(
            "| median of {}: beside a run, beside one at half speed | | {one:.0} %, {half:.0} % |",
            self.asked.rounds
        );
    }

    /// Updates a second while `work` goes on. The client has a thread and a connection of its own, as another program has.
    async fn client(&self, work: impl Future<Output = ()>) -> f64 {
        let ids = sqlx::query_scalar::<_, sqlx::types::Uuid>(
            "SELECT org_id FROM template ORDER BY random() LIMIT 20000",
        );
        let ids = ids.fetch_all(self.pool).await.expect("the table is there");
        let (over, url) = (Arc::new(AtomicBool::new(false)), self.url.clone());
        let client = std::thread::spawn({
            let over = Arc::clone(&over);
            move || update_single_rows(&url, &ids, &over)
        });
        work.await;
        over.store(true, Ordering::Relaxed);
        client.join().expect("the client ends")
    }

    async fn update(&self, rows: &str) {
        let sql = format!(
            "UPDATE org_instances SET database_url_encrypted = database_url_encrypted || '\\x00'::bytea, \
             redis_url_encrypted = redis_url_encrypted || '\\x00'::bytea WHERE {rows}"
        );
        self.pool.execute(AssertSqlSafe(sql)).await.expect("updates");
    }

    async fn script(&self, python: &Path) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers.py");
        let mut command = Command::new(python);
        command.arg(script).arg(&self.url).arg(hex::encode(OLD)).stdin(Stdio::null());
        assert!(command.status().await.expect("starts the script").success(), "the script failed");
    }

    async fn pgcrypto(&self, times: &mut Times) {
        let share = format!(
            "DELETE FROM org_instances WHERE ctid NOT IN (SELECT ctid FROM org_instances ORDER BY org_id LIMIT {})",
            self.asked.rows / PGCRYPTO_SHARE as usize
        );
        self.make_table().await;
        self.run(&[
            "CREATE EXTENSION IF NOT EXISTS pgcrypto",
            &share,
            "UPDATE org_instances SET \
             database_url_encrypted = pgp_sym_encrypt_bytea(database_url_encrypted, 'old', 'cipher-algo=aes256'), \
             redis_url_encrypted = pgp_sym_encrypt_bytea(redis_url_encrypted, 'old', 'cipher-algo=aes256')",
            "VACUUM FULL ANALYZE org_instances",
        ])
        .await;
        times.measure("pgcrypto", self.asked.rows / PGCRYPTO_SHARE as usize, self.run(&[PGCRYPTO])).await;
        times.scale("pgcrypto", PGCRYPTO_SHARE);
    }

    /// The table as a restored dump has it: no dead rows, analyzed. In memory, or not.
    async fn make_table(&self) {
        self.run(&[
            "DROP TABLE IF EXISTS org_instances",
            "CREATE TABLE org_instances (LIKE template INCLUDING ALL)",
            "INSERT INTO org_instances SELECT * FROM template",
            "VACUUM ANALYZE org_instances",
            "DELETE FROM reseal_quarantine",
            "DELETE FROM reseal_shards",
            "DELETE FROM reseal_runs",
            "DELETE FROM reseal_targets",
            "CHECKPOINT",
        ])
        .await;
        self.cool();
    }

    fn cool(&self) {
        if self.asked.cold {
            fs::write("/proc/sys/vm/drop_caches", "3").expect("root may empty the page cache");
        }
    }

    async fn run(&self, statements: &[&str]) {
        for statement in statements {
            self.pool.execute(AssertSqlSafe((*statement).to_owned())).await.expect("prepares the table");
        }
    }
}

/// Updates one row after the other until it is `over`; gives updates a second.
fn update_single_rows(url: &str, ids: &[sqlx::types::Uuid], over: &AtomicBool) -> f64 {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be had");
    runtime.block_on(async {
        let mut connection = PgConnection::connect(url).await.expect("connects");
        let (mut updates, started) = (0_u32, Instant::now());
        while !over.load(Ordering::Relaxed) {
            let id = ids[updates as usize % ids.len()];
            let update =
                sqlx::query("UPDATE org_instances SET updated_at = now() WHERE org_id = $1").bind(id);
            update.execute(&mut connection).await.expect("updates");
            updates += 1;
        }
        f64::from(updates) / started.elapsed().as_secs_f64()
    })
}
