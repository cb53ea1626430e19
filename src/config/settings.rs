//! The table of settings. Those of the vendors' APIs have a table of their own (`providers.rs`), and those of the tenants
//! (`tenants.rs`).

use super::{providers::PROVIDERS, tenants::TENANTS};

/// How many values a setting has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One.
    One,
    /// Any number: a repeated flag, a list in the file, separated by commas in the environment.
    Many,
    /// On or off.
    Switch,
    /// One, and secret: the environment holds the secret itself, the file says where it is kept. What is remembered is
    /// the place in either case.
    Secret,
}

/// A setting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Definition {
    /// Its name: a flag without the dashes, and a key of the file.
    pub(crate) name: &'static str,
    /// How many values it has.
    pub(crate) kind: Kind,
    /// What a value is called in help.
    pub(crate) value_name: &'static str,
    /// One line.
    pub(crate) help: &'static str,
    /// The only values there are; empty: any.
    pub(crate) choices: &'static [&'static str],
    /// Its values when no layer has any.
    pub(crate) default: &'static [&'static str],
    /// The vendor whose table in the file it is in, or `tenants`; it has no flag then.
    pub(super) group: Option<&'static str>,
}

impl Definition {
    pub(super) const fn new(
        name: &'static str,
        kind: Kind,
        value_name: &'static str,
        help: &'static str,
    ) -> Self {
        Self { name, kind, value_name, help, choices: &[], default: &[], group: None }
    }

    const fn choices(self, choices: &'static [&'static str]) -> Self {
        Self { choices, ..self }
    }

    pub(super) const fn default(self, default: &'static [&'static str]) -> Self {
        Self { default, ..self }
    }

    /// Its name in the environment.
    pub(crate) fn variable(&self) -> String {
        match self.name {
            "database-url" => "DATABASE_URL".to_owned(),
            name => format!("RESEAL_{}", name.to_ascii_uppercase().replace('-', "_")),
        }
    }

    /// Its name in the file: `name`, `tenants.name`, or `providers.VENDOR.name` in a vendor's table.
    pub(crate) fn key(&self) -> String {
        let Some(group) = self.group else { return self.name.to_owned() };
        let own = self.name.strip_prefix(group).and_then(|rest| rest.strip_prefix('-')).unwrap_or(self.name);
        match group {
            "tenants" => format!("tenants.{own}"),
            vendor => format!("providers.{vendor}.{own}"),
        }
        .replace('-', "_")
    }
}

/// The setting with this name.
pub(crate) fn definition(name: &str) -> &'static Definition {
    all().find(|setting| setting.name == name).expect("only names in the tables are asked for")
}

/// Every setting.
pub(crate) fn all() -> impl Iterator<Item = &'static Definition> {
    SETTINGS.iter().chain(PROVIDERS).chain(TENANTS)
}

/// Every setting that has a flag, in the order of help.
pub(crate) const SETTINGS: &[Definition] =
    &[
        one("database-url", "URL", "The database: postgres://…, sqlite://FILE, env:NAME or file:PATH"),
        one("tls", "MODE", "How the server is checked; verify-full, except on loopback or a socket")
            .choices(&["verify-full", "verify-ca", "require", "disable"]),
        one("table", "[SCHEMA.]TABLE", "The table").default(&["org_instances"]),
        one("logical-name", "NAME", "The name that v3 values are bound to; the table's own by default"),
        one("key-column", "NAME", "The primary key").default(&["org_id"]),
        many("column", "NAME", "An encrypted column; repeat for each")
            .default(&["database_url_encrypted", "redis_url_encrypted"]),
        many("old", "KEY", "A key that stored values may be under; repeat for each"),
        one("new", "KEY", "The key to end under"),
        one("format", "FORMAT", "What to write: v1 under a static key, v2 or v3 under a KMS key")
            .choices(&["v1", "v2", "v3"])
            .default(&["v2"]),
        one("data-key-scope", "SCOPE", "v2: a data key for each row, or for each batch")
            .choices(&["row", "batch"])
            .default(&["row"]),
        switch("rewrap", "v2: keep each value's data key, and let the KMS wrap it anew under --new"),
        one(
            "staged",
            "STEP",
            "v1 to v1, for readers with one key: seal ahead, then swap all at once, or forget it",
        )
        .choices(&["prepare", "swap", "drop"]),
        one("max-changed", "N", "Rows that a swap may seal anew under its lock").default(&["1000"]),
        one("to", "KMS", "The KMS key to move the registry's data keys to"),
        many("from", "KMS", "A KMS key to move them from; repeat for each. The same key: wraps them anew"),
        switch("new-data-key", "v3: make a new data key, even where one is active"),
        switch("seal-plaintext", "Seal URLs that are stored in the clear, instead of quarantining them"),
        one("workers", "N", "Workers in this process; each uses two connections").default(&["2"]),
        one("batch", "N", "Rows a batch, at most").default(&["1000"]),
        one("max-rows-per-second", "N", "Rows a second, all workers of this process together"),
        one("max-replica-lag", "TIME", "Write nothing while a replica is further behind, such as 5s"),
        one("max-kms-calls-per-second", "N", "KMS calls a second, all keys of this process together"),
        one("metrics-listen", "ADDRESS", "Serve Prometheus metrics at this port of 127.0.0.1, or address"),
        one("metrics-file", "FILE", "Leave Prometheus metrics in a file, written anew every 5 s"),
        one("max-value", "BYTES", "The longest value; longer ones go to quarantine").default(&["16777216"]),
        one("rows-limit", "N", "Stop after about so many rows"),
        one(
            "plan",
            "DIGEST",
            "Do only what the plan with this digest showed; refused where it has changed since",
        ),
        switch("reseal-ambiguous", "Give v1 values whose first byte is 0x02 or 0x03 a fresh nonce"),
        one(
            "rewrite-url-password-from",
            "SOURCE",
            "Edit on the way: put this shared URL's password into its tenants' URLs; env:NAME or file:PATH",
        ),
        one("rewrite-old-url", "SOURCE", "The shared URL as it was: env:NAME or file:PATH"),
        one("soak", "TIME", "How long a retired key is kept before it is destroyed: 35d, 12h, 30m, 0s")
            .default(&["35d"]),
        one(
            "state-url",
            "URL",
            "Where the journal of rotations is; the database by default, as --database-url takes it",
        ),
        one("kms", "KEY", "The KMS key that the values in the journal are sealed under"),
        one("output", "FORM", "How to answer").choices(&["human", "json"]).default(&["human"]),
    ];

const fn one(name: &'static str, value_name: &'static str, help: &'static str) -> Definition {
    Definition::new(name, Kind::One, value_name, help)
}

const fn many(name: &'static str, value_name: &'static str, help: &'static str) -> Definition {
    Definition::new(name, Kind::Many, value_name, help)
}

const fn switch(name: &'static str, help: &'static str) -> Definition {
    Definition::new(name, Kind::Switch, "BOOLEAN", help)
}
