//! SQLite: the run, and a plain `UPDATE` in one transaction.

use std::{fs, path::Path, sync::Arc};

use reseal::{
    envelope::Format,
    store::{Store, sqlite::Sqlite},
};
use sqlx::{Executor, SqlitePool};

use crate::{
    Asked,
    job::{Keys, OLD, To, rekey},
    measure::Times,
    support::tenants,
};

const UPDATE: &str = "UPDATE org_instances SET database_url_encrypted = database_url_encrypted || x'00', \
     redis_url_encrypted = redis_url_encrypted || x'00'";

pub(crate) async fn measure(asked: &Asked) {
    let folder = tempfile::tempdir().expect("a folder can be had");
    let keys = Keys::new(folder.path());
    let (template, path) = (folder.path().join("template.db"), folder.path().join("bench.db"));
    let store = Sqlite::create(&template).await.expect("creates");
    store.migrate().await.expect("migrates");
    let pool = open(&template).await;
    tenants::Tenants { seed: 1, rows: asked.rows, key: &OLD }.fill_sqlite(&pool).await;
    pool.execute("PRAGMA wal_checkpoint(TRUNCATE)").await.expect("checkpoints");
    pool.close().await;
    drop(store);

    let mut times = Times::default();
    for _ in 0..asked.rounds {
        copy(&template, &path);
        let pool = open(&path).await;
        let update = async {
            pool.execute(UPDATE).await.expect("updates");
        };
        times.measure("UPDATE", asked.rows, update).await;
        pool.close().await;
        for (what, format) in [("v1→v3", Format::V3), ("v1→v2", Format::V2)] {
            if asked.wants(what) {
                copy(&template, &path);
                let store: Arc<dyn Store> = Arc::new(Sqlite::open(&path).await.expect("opens"));
                times
                    .measure(
                        what,
                        asked.rows,
                        rekey(store, &keys, To { format, new_data_key: false }, &asked.options),
                    )
                    .await;
            }
        }
    }
    println!("\nSQLite, {} rows of two columns, median of {}:", asked.rows, asked.rounds);
    times.report(asked.rows, "UPDATE");
}

async fn open(path: &Path) -> SqlitePool {
    SqlitePool::connect(&format!("sqlite://{}", path.display())).await.expect("connects")
}

fn copy(template: &Path, path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        drop(fs::remove_file(format!("{}{suffix}", path.display())));
    }
    fs::copy(template, path).expect("copies");
}
