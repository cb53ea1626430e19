//! The tenants' table of a world: three rows, two of which share the control plane's Redis.

use std::{path::Path, sync::Arc};

use reseal::{
    envelope::{Format, v1::StaticCipher},
    keyring::ClearText,
    rekey::{self, DataKeyScope, Intent, KeyChoice, Options, Outcome, Status, stop_signal},
    rotation::Table,
    secret::{Plaintext, StaticKey},
    store::{Store, TargetName, sqlite::Sqlite},
};
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

use super::world::TENANTS;
use crate::support::tenants::SQLITE_DDL;

/// A table in a file, and the key of its values in another.
pub(crate) struct Rows {
    pub(crate) table: Table,
    file: std::path::PathBuf,
    cipher: StaticCipher,
}

fn key(bytes: [u8; 32]) -> StaticKey {
    StaticKey::from_slice(&bytes).unwrap()
}

async fn connect(file: &Path) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(file).create_if_missing(true))
        .await
        .unwrap()
}

impl Rows {
    /// Under a static key, of which `new` is to be the successor, or the same key where there is none.
    pub(crate) async fn make(folder: &Path, shared: &str, machine: &str, new: Option<&str>) -> Self {
        let (file, kept) = (folder.join("tenants.db"), folder.join("old.key"));
        let bytes: [u8; 32] = rand::random();
        std::fs::write(&kept, hex::encode(bytes)).unwrap();
        std::fs::set_permissions(&kept, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let cipher = StaticCipher::new(&key(bytes));
        let mut conn = connect(&file).await;
        sqlx::query(SQLITE_DDL).execute(&mut conn).await.unwrap();
        for (org, redis) in [
            ("acme", format!("{shared}/1")),
            ("globex", format!("{shared}/2")),
            ("own", "redis://x:y@own:1".to_owned()),
        ] {
            let mut sealed = [Vec::new(), Vec::new()];
            cipher.seal_into(format!("postgres://{org}:pw@db/{org}").as_bytes(), &mut sealed[0]);
            cipher.seal_into(redis.as_bytes(), &mut sealed[1]);
            let [database, redis] = sealed;
            sqlx::query(
                "INSERT INTO org_instances (org_id, slug, fly_app, fly_machine_id, fly_region, status, \
                 database_url_encrypted, redis_url_encrypted) VALUES (?, ?, ?, ?, 'fra', 'running', ?, ?)",
            )
            .bind(org)
            .bind(org)
            .bind(TENANTS)
            .bind(machine)
            .bind(database)
            .bind(redis)
            .execute(&mut conn)
            .await
            .unwrap();
        }
        conn.close().await.unwrap();
        let store = Sqlite::open(&file).await.unwrap();
        store.migrate().await.unwrap();
        let old: reseal::keyring::spec::KeySpec = format!("static:file:{}", kept.display()).parse().unwrap();
        let (new, format) = match new {
            Some(new) => (new.parse().unwrap(), Format::V2),
            None => (old.clone(), Format::V1),
        };
        let keys = KeyChoice {
            old: vec![old],
            new,
            format,
            scope: DataKeyScope::Row,
            new_data_key: false,
            clear_text: ClearText::Quarantine,
        };
        let name = TargetName {
            logical: None,
            schema: None,
            table: "org_instances".to_owned(),
            key_column: "org_id".to_owned(),
            columns: vec!["database_url_encrypted".to_owned(), "redis_url_encrypted".to_owned()],
        };
        let table = Table {
            store: Arc::new(store),
            name,
            keys: Some(keys),
            options: Options::default(),
            machine_columns: ["fly_app", "fly_machine_id"].map(str::to_owned),
            redis_variable: "REDIS_URL".to_owned(),
        };
        Self { table, file, cipher }
    }

    /// Re-keys every value, to the new key or back to the old one.
    pub(crate) async fn rekey(&self, back: bool) {
        let keys = self.table.keys.clone().expect("keys");
        let keys = match back {
            true => KeyChoice { old: vec![keys.new], new: keys.old[0].clone(), format: Format::V1, ..keys },
            false => keys,
        };
        let store = Arc::clone(&self.table.store);
        let target = store.inspect(&self.table.name).await.unwrap().target.unwrap();
        let job = rekey::prepare(store, target, &keys, Options::default(), Intent::Run).await.unwrap();
        let status = tokio::sync::watch::channel(Status::default()).0;
        let report = rekey::run(job, stop_signal().1, status).await.unwrap();
        assert_eq!(report.outcome, Outcome::Complete);
    }

    /// Puts a Redis URL that no key opens into a row.
    pub(crate) async fn poison(&self, org: &str) {
        let mut conn = connect(&self.file).await;
        let update = "UPDATE org_instances SET redis_url_encrypted = zeroblob(60) WHERE org_id = ?";
        sqlx::query(update).bind(org).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    }

    /// Every Redis URL that opens under the static key, by row.
    pub(crate) async fn redis_urls(&self) -> Vec<String> {
        let mut conn = connect(&self.file).await;
        let rows = sqlx::query("SELECT redis_url_encrypted FROM org_instances ORDER BY org_id")
            .fetch_all(&mut conn)
            .await
            .unwrap();
        let open = |row: &sqlx::sqlite::SqliteRow| {
            let mut url = Plaintext::new();
            self.cipher.open_into(row.get::<&[u8], _>(0), &mut url).ok()?;
            Some(String::from_utf8(url.expose().to_vec()).unwrap())
        };
        rows.iter().filter_map(open).collect()
    }
}
