//! The settings of the tenants: how the table names where each runs, and what their machines and databases have. From the
//! environment (`RESEAL_TENANTS_APP_COLUMN`) and the file (`[tenants] app_column`), without flags.

use super::settings::{Definition, Kind};

/// Every one.
pub(super) const TENANTS: &[Definition] = &[
    one("tenants-app-column", "NAME", "The Fly app of a tenant's machine").default(&["fly_app"]),
    one("tenants-machine-column", "NAME", "The id of its machine").default(&["fly_machine_id"]),
    one("tenants-region-column", "NAME", "The machine's region").default(&["fly_region"]),
    one("tenants-project-column", "NAME", "The Neon project of its branch").default(&["neon_project_id"]),
    one("tenants-branch-column", "NAME", "The id of its branch").default(&["neon_branch_id"]),
    one("tenants-status-column", "NAME", "Its status, which is only read").default(&["status"]),
    one("tenants-updated-at-column", "NAME", "When its row was last changed").default(&["updated_at"]),
    one("tenants-database-variable", "NAME", "What its machine calls its database URL")
        .default(&["DATABASE_URL"]),
    one("tenants-redis-variable", "NAME", "What its machine calls its Redis URL").default(&["REDIS_URL"]),
    Definition {
        kind: Kind::Many,
        ..one(
            "tenants-known-role",
            "NAME",
            "A role of every tenant's database that may log in, though Neon lists it not",
        )
    },
    Definition {
        kind: Kind::Secret,
        ..one("tenant-redis-url", "SECRET", "TENANT_REDIS_URL, where the journal does not know it")
    },
];

const fn one(name: &'static str, value_name: &'static str, help: &'static str) -> Definition {
    Definition { group: Some("tenants"), ..Definition::new(name, Kind::One, value_name, help) }
}
