//! `TENANT_REDIS_URL`: one value that every tenant shares.

use super::{DEPLOY, HEALTH, await_death, contacts, prove, revoke, sweep, write_fly};
use crate::rotation::{
    SecretName,
    recipe::{Action, Authority, Check, IssuerName, Overlap, ProbeName, Recipe, Rollout, Step, Strategy},
};

const KNOWN: Step = Step {
    name: "old-url",
    action: Action::Check(Check::OldUrlIsKnown),
    text: "Check that the old URL is known: rows and machines that hold it are told apart by it.",
    calls: "-",
    by: Authority::Nobody,
    seconds: 0,
};

const PING: Step = prove(ProbeName::RedisLogin, "AUTH and PING with the new URL.", "AUTH, PING");

const ROWS: Step = Step {
    name: "tenant-rows",
    action: Action::TenantRows,
    text: "Put the new URL in the place of the old one in every encrypted row that holds it, as a rewrite run: \
           compare-and-swap, each value opened again before it is stored.",
    calls: "a rewrite run",
    by: Authority::Database,
    seconds: 30,
};

const MACHINES: Step = Step {
    name: "tenant-machines",
    action: Action::TenantMachines,
    text: "Give each tenant's machine the new REDIS_URL, with the rest of its configuration as it is.",
    calls: "POST /v1/apps/{app}/machines/{id}, one a second for each machine",
    by: Authority::FlyToken,
    seconds: 300,
};

const REFUSED: Step =
    await_death(ProbeName::RedisLogin, "AUTH with the old URL until it is refused.", "AUTH");

pub(super) static RECIPE: Recipe = Recipe {
    secret: SecretName::TenantRedisUrl,
    purpose: "The Redis that tenants share, at Upstash; each tenant's container gets it as REDIS_URL.",
    kept: &[
        "Fly secret of the control plane",
        "plaintext of every redis_url_encrypted",
        "REDIS_URL of every tenant machine",
    ],
    coupled: Some("The Fly secret, the rows and the tenants' machines hold the same URL."),
    blast_radius: "Every tenant loses its cache and queues at once.",
    half_done: "Tenants whose machine was not updated are without Redis; rows that were not rewritten hand out a \
                dead URL at the next restart.",
    watch: None,
    contacts: &[contacts::UPSTASH, contacts::FLY],
    max_age_days: None,
    rollout: Rollout::Deploy,
    by_hand: include_str!("by_hand/tenant_redis_url.sh"),
    strategies: &[
        Strategy {
            name: "reset",
            when: "The password leaked: it dies at once. Every tenant is without Redis until its machine is updated.",
            overlap: Overlap::None,
            steps: &[
                KNOWN,
                Step {
                    name: "reset",
                    action: Action::Mint(IssuerName::UpstashPassword),
                    text: "Reset the database's password. The old one is dead at once.",
                    calls: "POST /v2/redis/reset-password/{id}",
                    by: Authority::UpstashToken,
                    seconds: 3,
                },
                PING,
                write_fly("TENANT_REDIS_URL"),
                DEPLOY,
                HEALTH,
                ROWS,
                MACHINES,
                REFUSED,
            ],
        },
        Strategy {
            name: "new-database",
            when: "Nothing may go down: tenants move one by one to a new database, whose cache is cold.",
            overlap: Overlap::UntilRevoked,
            steps: &[
                KNOWN,
                Step {
                    name: "list-old",
                    action: Action::Check(Check::OldIsKnown(IssuerName::UpstashDatabases)),
                    text: "List the databases and find the old one by its id. Only that id is deleted later.",
                    calls: "GET /v2/redis/databases",
                    by: Authority::UpstashToken,
                    seconds: 1,
                },
                Step {
                    name: "create",
                    action: Action::Mint(IssuerName::UpstashDatabases),
                    text: "Make a database like the old one, named after this rotation.",
                    calls: "POST /v2/redis/database",
                    by: Authority::UpstashToken,
                    seconds: 10,
                },
                PING,
                write_fly("TENANT_REDIS_URL"),
                DEPLOY,
                HEALTH,
                ROWS,
                MACHINES,
                revoke(
                    IssuerName::UpstashDatabases,
                    Authority::UpstashToken,
                    "Delete the old database.",
                    "DELETE /v2/redis/database/{id}",
                ),
                REFUSED,
                sweep(IssuerName::UpstashDatabases, Authority::UpstashToken, "GET /v2/redis/databases"),
            ],
        },
        Strategy {
            name: "fly-reset",
            when: "The Redis was made by `fly redis create`: Upstash's own API does not know it.",
            overlap: Overlap::None,
            steps: &[
                KNOWN,
                Step {
                    name: "reset",
                    action: Action::Mint(IssuerName::FlyRedis),
                    text: "Have Fly reset the add-on's password. The old one is dead at once.",
                    calls: "POST graphql resetAddOnPassword",
                    by: Authority::FlyToken,
                    seconds: 3,
                },
                PING,
                write_fly("TENANT_REDIS_URL"),
                DEPLOY,
                HEALTH,
                ROWS,
                MACHINES,
                REFUSED,
            ],
        },
    ],
};
