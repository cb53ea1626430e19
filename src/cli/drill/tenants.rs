//! Tenants as a control plane keeps them: made up, passwords and all, and never the same twice.

use rand::{Rng, RngExt, seq::IndexedRandom};
use reseal::secret::Plaintext;
use uuid::Uuid;

/// The table of the tenants, by the default settings' names.
pub(super) const TABLE: &str = "org_instances";

/// Its encrypted columns, in the order of [`Tenant::urls`].
pub(super) const COLUMNS: [&str; 2] = ["database_url_encrypted", "redis_url_encrypted"];

/// Its definition.
pub(super) const DDL: &str = "CREATE TABLE org_instances (
    org_id                 TEXT PRIMARY KEY NOT NULL,
    slug                   TEXT NOT NULL,
    fly_app                TEXT NOT NULL,
    fly_region             TEXT NOT NULL,
    database_url_encrypted BLOB NOT NULL,
    redis_url_encrypted    BLOB,
    created_at             TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
)";

const FIRST: [&str; 16] = [
    "amber", "bright", "copper", "distant", "early", "frosty", "golden", "hidden", "ivory", "jolly",
    "little", "mellow", "northern", "quiet", "silver", "western",
];
const SECOND: [&str; 16] = [
    "anchor",
    "bakery",
    "clinic",
    "depot",
    "estate",
    "foundry",
    "garden",
    "harbour",
    "insurance",
    "kitchen",
    "logistics",
    "museum",
    "orchard",
    "press",
    "robotics",
    "theatre",
];
const REGIONS: [&str; 6] = ["ams", "fra", "gru", "iad", "nrt", "syd"];

/// A new tenant.
pub(super) struct Tenant {
    pub(super) org_id: Uuid,
    pub(super) slug: String,
    pub(super) region: &'static str,
    /// What the encrypted columns stand for; three tenants in ten have no Redis.
    pub(super) urls: [Option<Plaintext>; 2],
}

impl Tenant {
    pub(super) fn new() -> Self {
        let slug = format!("{}-{}-{}", pick(&FIRST), pick(&SECOND), random_hex(2));
        let redis = rand::rng().random_bool(0.7).then(redis_url);
        Self { org_id: Uuid::new_v4(), slug, region: pick(&REGIONS), urls: [Some(database_url()), redis] }
    }
}

/// A database URL with a fresh password.
pub(super) fn database_url() -> Plaintext {
    let host = format!("ep-{}-{}-{}", pick(&FIRST), pick(&SECOND), random_hex(4));
    let (role, password) = (random_hex(4), random_hex(12));
    let url = format!(
        "postgres://tenant_{role}:npg_{password}@{host}.eu-central-1.aws.neon.tech/main?sslmode=require"
    );
    Plaintext::from(url.into_bytes())
}

/// A Redis URL with a fresh password.
pub(super) fn redis_url() -> Plaintext {
    let (password, host) = (random_hex(20), format!("{}-{}-{}", pick(&FIRST), pick(&SECOND), random_hex(3)));
    Plaintext::from(format!("rediss://default:{password}@{host}.upstash.io:6379").into_bytes())
}

fn pick(words: &[&'static str]) -> &'static str {
    words.choose(&mut rand::rng()).copied().unwrap_or_default()
}

fn random_hex(bytes: usize) -> String {
    let mut random = [0; 20];
    rand::rng().fill_bytes(&mut random[..bytes]);
    hex::encode(&random[..bytes])
}
