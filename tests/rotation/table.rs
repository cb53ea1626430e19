//! The tenants' table of a world: three rows, two of which share the control plane's Redis.

use std::{path::Path, sync::Arc};

use reseal::{
    envelope::{Format, v1::StaticCipher},
    keyring::ClearText,
    rekey::{DataKeyScope, KeyChoice, Options},
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
        let table = Table { store: Arc::new(store), name, keys: Some(keys), options: Options::default() };
        Self { table, file, cipher }
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
