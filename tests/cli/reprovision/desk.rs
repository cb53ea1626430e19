//! An operator's desk in front of a world of tenants: the vendors' addresses and tokens in the environment.

use std::process::Child;

use reseal::{envelope::Format, journal::Hook};

use crate::{
    cli::operator::{Operator, Said},
    reprovision::world::{NEW_REDIS, OLD_REDIS, Shape, World},
};

/// What was not rotated before, and need not be.
pub(super) const UNROTATED: [&str; 4] =
    ["--accept-unrotated", "NEON_API_KEY", "--accept-unrotated", "TENANT_REDIS_URL"];

pub(super) struct Desk {
    pub(super) operator: Operator,
    pub(super) world: World,
}

impl Desk {
    /// In front of so many tenants.
    pub(super) async fn new(tenants: usize) -> Self {
        Self::with(Shape { tenants, format: Format::V2, ..Shape::default() }).await
    }

    pub(super) async fn with(shape: Shape) -> Self {
        let world = World::start(shape).await;
        let mut operator = Operator::new();
        let file = |name: &str| world.file(name).display().to_string();
        for (name, value) in [
            ("DATABASE_URL", format!("sqlite://{}", file("tenants.db"))),
            ("RESEAL_STATE_URL", format!("sqlite://{}", file("journal.db"))),
            ("RESEAL_KMS", format!("local-kms:{}", file("keyring.json"))),
            ("RESEAL_NEW", format!("local-kms:{}", file("keyring.json"))),
            ("RESEAL_FLY_MACHINES_URL", world.fly.machines_url()),
            ("RESEAL_FLY_GRAPHQL_URL", world.fly.graphql_url()),
            ("RESEAL_NEON_URL", world.neon.vendor.url().to_owned()),
            // What a second allows is a test's whole time.
            ("RESEAL_FLY_RATE_MULTIPLE", "1000".to_owned()),
            ("RESEAL_NEON_RATE_MULTIPLE", "1000".to_owned()),
        ] {
            operator.set(name, &value);
        }
        for (name, secret) in [
            ("RESEAL_FLY_TOKEN", world.fly.user_token()),
            ("RESEAL_NEON_TOKEN", world.neon.token().to_owned()),
            ("RESEAL_TENANT_REDIS_URL", NEW_REDIS.to_owned()),
        ] {
            operator.set(name, &secret);
            operator.guard(&secret);
        }
        operator.guard(OLD_REDIS);
        world.tenants.iter().for_each(|tenant| operator.guard(&tenant.home.url));
        Self { operator, world }
    }

    /// Types a `reprovision` command.
    #[track_caller]
    pub(super) fn type_(&self, words: &[&str]) -> Said {
        self.operator.reseal(&[&["reprovision"], words].concat())
    }

    /// Begins a run with these options.
    #[track_caller]
    pub(super) fn run(&self, words: &[&str]) -> Said {
        self.type_(&[&["run", "--yes"], &UNROTATED[..], words].concat())
    }

    /// The same, and leaves it running.
    pub(super) fn start(&self, words: &[&str]) -> Child {
        self.operator.start(&[&["reprovision", "run", "--yes"], &UNROTATED[..], words].concat())
    }

    /// That every tenant is at its end: its row opens under the new key, with a URL that works and that nobody said.
    pub(super) async fn judge(&self, said: &[&Said]) {
        let works = self.world.works(Hook::default()).await;
        for tenant in &self.world.tenants {
            let [database, redis] = self.world.urls(&works, &tenant.org).await;
            let (database, redis) = (database.expect("a URL"), redis.expect("a URL"));
            assert!(self.world.neon.accepts(&database), "{}", tenant.org);
            assert!(!self.world.neon.accepts(&tenant.home.url), "{}: its old URL works", tenant.org);
            assert!(redis.starts_with(NEW_REDIS), "{}", tenant.org);
            assert_eq!(self.world.serving(tenant).len(), 1, "{}", tenant.org);
            for said in said {
                assert!(!said.out.contains(&database) && !said.err.contains(&database), "a URL was said");
            }
        }
        assert_eq!(self.world.fly.machines(crate::reprovision::world::APP).len(), self.world.tenants.len());
    }
}
