//! What a re-provisioning works with, and how it goes about it.

use std::{fmt, sync::Arc, time::Duration};

use sha2::{Digest, Sha256};

use super::{error::Trouble, saga::Urls};
use crate::{
    journal::{Hook, Vault},
    keyring::Attempt,
    providers::{
        Patience,
        fly::Fly,
        login::{PostgresLogin, TenantDatabase},
        neon::Neon,
    },
    rekey::{Job, KeyChoice},
    secret::{Plaintext, SecretText},
    store::{RowKey, Store, TenantColumns, TenantRow},
};

/// How a process goes about a re-provisioning.
#[derive(Debug, Clone)]
pub struct Manner {
    /// How many tenants at once.
    pub concurrency: usize,
    /// How long an observed state of a provider is waited for.
    pub patience: Patience,
    /// How long one login may take: one that wakes a sleeping compute takes some seconds.
    pub login: Duration,
    /// How often a phase is tried before its tenant parks.
    pub tries: u32,
    /// The first pause between two tries; it doubles.
    pub pause: Duration,
    /// How long between two lists, of which one alone proves nothing.
    pub apart: Duration,
    /// Awaited at every boundary.
    pub hook: Hook,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            concurrency: 16,
            patience: Patience { every: Duration::from_secs(1), at_most: Duration::from_secs(300) },
            login: Duration::from_secs(30),
            tries: 5,
            pause: Duration::from_secs(1),
            apart: Duration::from_secs(2),
            hook: Hook::default(),
        }
    }
}

/// What a tenant's machine calls its URLs.
#[derive(Debug, Clone)]
pub struct Variables {
    /// The database's.
    pub database: String,
    /// Redis's.
    pub redis: String,
}

impl Default for Variables {
    fn default() -> Self {
        Self { database: "DATABASE_URL".to_owned(), redis: "REDIS_URL".to_owned() }
    }
}

/// What a re-provisioning works with.
pub struct Works {
    /// The Machines API.
    pub fly: Fly,
    /// The branches' API.
    pub neon: Neon,
    /// The tenants' table, with the key to seal under, and those to open old values with if there are any. Its target's
    /// first column is the database URL, the second, if there is one, the Redis URL.
    pub job: Arc<Job>,
    /// The keys that the job was prepared with.
    pub keys: KeyChoice,
    /// Where the table says what a tenant has.
    pub columns: TenantColumns,
    /// Where the journal is.
    pub journal: Arc<dyn Store>,
    /// Seals the URLs in it.
    pub vault: Vault,
    /// `TENANT_REDIS_URL` as it is now; without it tenants keep the one they have.
    pub redis: Option<SecretText>,
    /// See [`Variables`].
    pub variables: Variables,
    /// Roles that may log in though the provider does not list them.
    pub known_roles: Vec<String>,
    /// Regions for machines that have no place in their own.
    pub regions: Vec<String>,
    /// See [`Manner`].
    pub manner: Manner,
}

impl fmt::Debug for Works {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Works").field("job", &self.job).finish_non_exhaustive()
    }
}

impl Works {
    /// A tenant's row, as it is now.
    pub(super) async fn row(&self, tenant: &str) -> Result<Option<TenantRow>, Trouble> {
        let Some(key) = RowKey::parse(self.job.target.key_kind, tenant) else { return Ok(None) };
        Ok(self.job.store.tenant(&self.job.target, &self.columns, &key).await?)
    }

    /// The plaintexts of a row's cells, those that a key at hand opens; and whether each is under the new key.
    pub(super) async fn open(&self, row: &TenantRow) -> Result<Vec<Option<(SecretText, bool)>>, Trouble> {
        let (mut opened, mut buffer) = (Vec::with_capacity(row.cells.len()), Vec::new());
        let (mut plaintext, key) = (Plaintext::new(), row.key.to_string());
        for (column, cell) in row.cells.iter().enumerate() {
            let encoding = self.job.target.columns[column].encoding;
            let value = cell.as_deref().and_then(|stored| encoding.decode(stored, &mut buffer));
            let attempt = match value {
                Some(value) => Some(self.job.opener.open(column, &key, value, &mut plaintext).await?),
                None => None,
            };
            opened.push(match attempt {
                Some(Attempt::Opened(origin)) => {
                    let text = std::str::from_utf8(plaintext.expose()).ok();
                    text.map(|text| (SecretText::new(text.to_owned()), self.job.sealer.is_current(&origin)))
                }
                _ => None,
            });
        }
        Ok(opened)
    }

    /// Whether the new key seals what it opens again; nothing is stored.
    pub(super) async fn try_new_key(&self) -> Result<(), Trouble> {
        let url = || SecretText::new("postgresql://nobody@nowhere/nothing".to_owned());
        let urls = Urls { new: vec![url()], redis: Some(url()), ..Urls::default() };
        self.seal(&RowKey::Text("nobody".to_owned()), &urls).await.map(drop)
    }

    /// The cells of a row that is to hold these URLs, sealed under the new key, each opened again. What there is no URL for
    /// has no bytes.
    pub(super) async fn seal(&self, key: &RowKey, urls: &Urls) -> Result<Vec<Vec<u8>>, Trouble> {
        let (sealer, row) = (&self.job.sealer, key.to_string());
        let row_keys = sealer.row_keys().await?;
        let (mut check, mut value) = (Plaintext::new(), Vec::new());
        let urls = [urls.new.first(), urls.redis.as_ref()];
        let mut cells = Vec::with_capacity(self.job.target.columns.len());
        for (column, definition) in self.job.target.columns.iter().enumerate() {
            let Some(url) = urls.get(column).copied().flatten() else {
                cells.push(Vec::new());
                continue;
            };
            let plaintext = Plaintext::from(url.expose().as_bytes().to_vec());
            sealer.seal(column, &row, row_keys.as_ref(), &plaintext, &mut value, &mut check)?;
            let mut stored = Vec::new();
            definition.encoding.encode_into(&value, &mut stored);
            cells.push(stored);
        }
        Ok(cells)
    }

    /// The probe of a database URL.
    pub(super) fn login(&self) -> PostgresLogin {
        PostgresLogin::new(self.manner.login)
    }

    /// SQL on a tenant's database.
    pub(super) fn sql(&self) -> TenantDatabase {
        TenantDatabase::new(self.manner.login)
    }
}

/// What tells one state of a row from another: SHA-256 of all that a swap compares.
pub(super) fn fingerprint(row: &TenantRow) -> String {
    let mut hash = Sha256::new();
    let mut add = |part: Option<&[u8]>| {
        hash.update(
            part.map_or(u64::MAX, |part| u64::try_from(part.len()).unwrap_or(u64::MAX)).to_be_bytes(),
        );
        hash.update(part.unwrap_or_default());
    };
    for text in [&row.app, &row.machine, &row.region, &row.project, &row.branch] {
        add(text.as_deref().map(str::as_bytes));
    }
    row.cells.iter().for_each(|cell| add(cell.as_deref()));
    hex::encode(hash.finalize())
}
