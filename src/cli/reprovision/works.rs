//! What a re-provisioning works with here, from the settings.

use std::sync::Arc;

use reseal::{
    journal::{Owner, Vault},
    providers::{fly::Fly, neon::Neon},
    rekey::{self, Intent, KeyChoice, Options},
    reprovision::{Manner, Variables, Works},
    rotation::SecretName,
    secret::SecretText,
    store::{CredentialState, TenantColumns},
};
use url::Url;

use crate::{
    cli::{
        Call, Fault, connect, meant,
        rotation::estate::{self, Journal},
    },
    config::definition,
};

/// How a run is gone about, which may be another way each time that it is taken up.
#[derive(Debug, Default)]
pub(in crate::cli) struct Way {
    /// How many tenants at once.
    pub(super) concurrency: Option<usize>,
    /// Regions for machines that have no place in their own.
    pub(super) regions: Vec<String>,
    /// The column that ranks tenants.
    pub(super) order: Option<String>,
}

/// What the settings say, before anything is connected to.
pub(in crate::cli) struct Parts {
    fly: Fly,
    neon: Neon,
    keys: KeyChoice,
    options: Options,
    columns: TenantColumns,
    variables: Variables,
    known_roles: Vec<String>,
    redis: Option<SecretText>,
    regions: Vec<String>,
    manner: Manner,
}

impl Parts {
    pub(in crate::cli) fn of(call: &Call, way: Way) -> Result<Self, Fault> {
        let (fly, neon) = providers(call)?;
        let text = |name: &str| call.settings.text(name).unwrap_or_default().to_owned();
        let defaults = Manner::default();
        Ok(Self {
            fly: fly.ok_or_else(|| no_access("Fly", "fly-token"))?,
            neon: neon.ok_or_else(|| no_access("Neon", "neon-token"))?,
            keys: meant::keys(call)?,
            options: meant::options(call)?,
            columns: TenantColumns { order: way.order, ..columns(call) },
            variables: Variables {
                database: text("tenants-database-variable"),
                redis: text("tenants-redis-variable"),
            },
            known_roles: call.settings.texts("tenants-known-role").to_vec(),
            redis: redis(call)?,
            regions: way.regions,
            manner: Manner { concurrency: way.concurrency.unwrap_or(defaults.concurrency), ..defaults },
        })
    }

    /// With the journal, and the table that the settings name.
    pub(in crate::cli) async fn assemble(
        self,
        call: &Call,
        journal: &Journal,
        vault: Vault,
        intent: Intent,
    ) -> Result<Works, Fault> {
        let table = estate::table(call, journal).await?.ok_or_else(no_table)?;
        let target = connect::target(table.store.as_ref(), &table.name).await?;
        let job = rekey::prepare(table.store, target, &self.keys, self.options, intent).await?;
        let known = journal.store.credentials(Some(SecretName::TenantRedisUrl.as_str())).await?;
        let current = known.into_iter().find(|known| known.state == CredentialState::Current);
        let sealed = current.and_then(|known| Some((known.credential_id, known.sealed?)));
        let redis = match sealed {
            Some((id, sealed)) => Some(vault.open(Owner::Credential(&id), &sealed).ok_or_else(|| {
                Fault::refused("TENANT_REDIS_URL in the journal opens under none of its data keys")
                    .hint("name the KMS key that the journal is sealed under: --kms KEY")
            })?),
            None => self.redis,
        };
        Ok(Works {
            fly: self.fly,
            neon: self.neon,
            job: Arc::new(job),
            keys: self.keys,
            columns: self.columns,
            journal: Arc::clone(&journal.store),
            vault,
            redis,
            variables: self.variables,
            known_roles: self.known_roles,
            regions: self.regions,
            manner: self.manner,
        })
    }
}

/// The providers that a credential is set for.
pub(super) fn providers(call: &Call) -> Result<(Option<Fly>, Option<Neon>), Fault> {
    let (fly, neon) = (estate::fly(call)?, estate::neon(call)?);
    Ok((fly.map(|fly| fly.fly), neon.map(|neon| neon.neon)))
}

/// The columns that say where a tenant runs.
pub(super) fn columns(call: &Call) -> TenantColumns {
    let name = |setting: &str| call.settings.text(setting).unwrap_or_default().to_owned();
    TenantColumns {
        app: name("tenants-app-column"),
        machine: name("tenants-machine-column"),
        region: name("tenants-region-column"),
        project: name("tenants-project-column"),
        branch: name("tenants-branch-column"),
        status: name("tenants-status-column"),
        updated_at: name("tenants-updated-at-column"),
        order: None,
    }
}

pub(super) fn no_access(vendor: &str, setting: &str) -> Fault {
    Fault::usage(format!("no access to {vendor}: {} is not set", definition(setting).variable()))
        .hint("reseal config shows what is set")
}

pub(super) fn no_table() -> Fault {
    Fault::usage("no database with the tenants' table is named")
        .hint("set DATABASE_URL, or --database-url env:NAME or file:PATH")
}

fn redis(call: &Call) -> Result<Option<SecretText>, Fault> {
    let Some(url) = call.settings.secret("tenant-redis-url")? else { return Ok(None) };
    let url = SecretText::new(url.expose().trim().to_owned());
    match Url::parse(url.expose()) {
        Ok(parsed) if ["redis", "rediss"].contains(&parsed.scheme()) => Ok(Some(url)),
        _ => Err(Fault::usage("RESEAL_TENANT_REDIS_URL does not hold a Redis URL")
            .hint("rediss://default:PASSWORD@HOST:PORT")),
    }
}
