//! What the operator runs: the providers as they are configured, and the roles that a recipe's names stand for here.

use std::{sync::Arc, time::Duration};

use super::{
    RotationError, SecretName,
    recipe::{IssuerName, LocationName, ProbeName},
};
use crate::{
    providers::{
        Issuer, Location, Mailbox, Patience, Probe,
        control_plane::ControlPlane,
        fly::{AppSecret, Fly, RedisPassword, TokenProbe, TokenProfile, Tokens},
        github::{ActionsSecret, GitHub, Workflow},
        login::{PostgresLogin, RedisLogin},
        neon::{self, Neon, RolePassword, Route},
        resend::{Permission, Resend},
        stripe::Stripe,
        upstash::{self, Upstash},
    },
    rekey::{KeyChoice, Options},
    reprovision::Works,
    secret::SecretText,
    store::{Store, TargetName},
};

/// How long one login may take.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a token of Fly's lives, which no later rotation should need.
const TOKEN_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// The control plane's app on Fly.
#[derive(Debug)]
pub struct FlyApp {
    /// The API, with the bootstrap token.
    pub fly: Fly,
    /// The bootstrap token.
    pub token: Arc<SecretText>,
    /// The app.
    pub app: String,
    /// The organization that tokens belong to.
    pub org: Option<String>,
    /// The Redis add-on that Fly made, if it did.
    pub redis: Option<String>,
}

/// The repository that publishes images.
#[derive(Debug)]
pub struct Publisher {
    /// The API.
    pub github: GitHub,
    /// The file of the workflow.
    pub workflow: String,
    /// The branch or tag that it runs on.
    pub reference: String,
}

/// The control plane's project on Neon.
#[derive(Debug)]
pub struct NeonProject {
    /// The API, with the bootstrap key.
    pub neon: Neon,
    /// The bootstrap key.
    pub token: Arc<SecretText>,
    /// The organization that keys belong to; a person's own without.
    pub org: Option<String>,
    /// The project.
    pub project: String,
}

/// The account at Resend.
#[derive(Debug)]
pub struct Mailer {
    /// The API, with the admin key.
    pub resend: Resend,
    /// The admin key.
    pub token: Arc<SecretText>,
    /// What mail comes from now.
    pub from: Option<Mailbox>,
}

/// The account at Stripe.
#[derive(Debug)]
pub struct Billing {
    /// The API.
    pub stripe: Stripe,
    /// A key that may read events and manage webhook endpoints.
    pub token: Option<Arc<SecretText>>,
}

/// The shared Redis at Upstash.
#[derive(Debug)]
pub struct Cache {
    /// The API.
    pub upstash: Upstash,
    /// The database's id.
    pub database: String,
}

/// The tenants' table.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its database.
    pub store: Arc<dyn Store>,
    /// Its name and columns.
    pub name: TargetName,
    /// The keys of its values.
    pub keys: Option<KeyChoice>,
    /// How to go about a run.
    pub options: Options,
    /// Its columns with the app and the id of a tenant's machine.
    pub machine_columns: [String; 2],
    /// What a tenant's machine calls the URL of its Redis.
    pub redis_variable: String,
}

/// Everything that a rotation can reach. What is not configured is `None`, and is missed only where a step needs it.
#[derive(Debug, Default)]
pub struct Estate {
    /// See [`FlyApp`].
    pub fly: Option<FlyApp>,
    /// See [`Publisher`].
    pub publisher: Option<Publisher>,
    /// See [`NeonProject`].
    pub neon: Option<NeonProject>,
    /// See [`Mailer`].
    pub mailer: Option<Mailer>,
    /// See [`Billing`].
    pub billing: Option<Billing>,
    /// See [`Cache`].
    pub cache: Option<Cache>,
    /// The control plane itself.
    pub control_plane: Option<ControlPlane>,
    /// See [`Table`].
    pub table: Option<Table>,
    /// What a re-provisioning of its tenants works with.
    pub reprovision: Option<Works>,
    /// Whether the control plane was given a session for reseal.
    pub has_session: bool,
    /// The organization and the plan that a test checkout is for.
    pub checkout: Option<(String, String)>,
    /// Whether the journal is in the control plane's own database.
    pub journal_in_database: bool,
}

/// A credential as a rotation works with it.
#[derive(Debug)]
pub struct Held {
    /// Our id of it.
    pub credential_id: String,
    /// The provider's id, where it is known.
    pub provider_id: Option<String>,
    /// Its value, where it is known.
    pub value: Option<SecretText>,
}

/// The two credentials of a rotation.
#[derive(Debug, Default)]
pub struct Pair {
    /// The one that comes.
    pub new: Option<Held>,
    /// The one that goes.
    pub old: Option<Held>,
}

impl Pair {
    /// The new value.
    pub fn new_value(&self) -> Option<&SecretText> {
        self.new.as_ref()?.value.as_ref()
    }

    /// The old value.
    pub fn old_value(&self) -> Option<&SecretText> {
        self.old.as_ref()?.value.as_ref()
    }

    /// The provider's id of the old one.
    pub fn old_id(&self) -> Option<&str> {
        self.old.as_ref()?.provider_id.as_deref()
    }
}

/// A setting that a step needs.
fn missing(what: &str, setting: &str) -> RotationError {
    RotationError::Settings {
        what: format!("{what}: {setting} is not set"),
        hint: format!("set {setting}, in the environment or in reseal.toml; reseal config shows what is set"),
    }
}

macro_rules! part {
    ($name:ident, $type:ty, $what:literal, $setting:literal) => {
        #[doc = concat!("See [`", stringify!($type), "`].")]
        ///
        /// # Errors
        /// That it is not configured.
        pub(super) fn $name(&self) -> Result<&$type, RotationError> {
            self.$name.as_ref().ok_or_else(|| missing($what, $setting))
        }
    };
}

impl Estate {
    part!(fly, FlyApp, "no access to Fly", "RESEAL_FLY_TOKEN");
    part!(publisher, Publisher, "no access to GitHub", "RESEAL_GITHUB_TOKEN");
    part!(neon, NeonProject, "no access to Neon", "RESEAL_NEON_TOKEN");
    part!(mailer, Mailer, "no access to Resend", "RESEAL_RESEND_TOKEN");
    part!(billing, Billing, "no access to Stripe", "RESEAL_STRIPE_URL");
    part!(cache, Cache, "no access to Upstash", "RESEAL_UPSTASH_TOKEN");
    part!(
        control_plane,
        ControlPlane,
        "the control plane's address is not known",
        "RESEAL_CONTROL_PLANE_URL"
    );
    part!(reprovision, Works, "no access to the tenants' branches", "RESEAL_NEON_TOKEN");
    part!(table, Table, "no database with the tenants' table", "DATABASE_URL");

    /// The workflow that publishes images.
    pub(super) fn workflow(&self) -> Result<(Workflow, &str), RotationError> {
        let publisher = self.publisher()?;
        Ok((Workflow::new(&publisher.github, &publisher.workflow), &publisher.reference))
    }

    /// The issuer of this name, with the authority that its calls need.
    pub(super) async fn issuer(
        &self,
        name: IssuerName,
        pair: &Pair,
        patience: Patience,
    ) -> Result<Box<dyn Issuer>, RotationError> {
        let like = || pair.old_id().map(str::to_owned);
        Ok(match name {
            IssuerName::FlyTokens => Box::new(self.fly()?.tokens(like())?),
            IssuerName::NeonKeys => {
                let neon = self.neon()?;
                Box::new(neon::ApiKeys::new(neon.neon.clone(), neon.org.clone()))
            }
            IssuerName::NeonRole => Box::new(self.role(pair, Which::Same, patience).await?),
            IssuerName::NeonOtherRole => Box::new(self.role(pair, Which::Other, patience).await?),
            IssuerName::UpstashPassword => {
                let cache = self.cache()?;
                Box::new(upstash::Database { upstash: cache.upstash.clone(), id: cache.database.clone() })
            }
            IssuerName::UpstashDatabases => {
                let cache = self.cache()?;
                let like = like().and_then(|id| id.strip_prefix("database:").map(str::to_owned));
                let like = like.unwrap_or_else(|| cache.database.clone());
                Box::new(upstash::Databases { upstash: cache.upstash.clone(), like })
            }
            IssuerName::FlyRedis => {
                let fly = self.fly()?;
                let name = fly.redis.clone().ok_or_else(|| missing("which Redis", "RESEAL_FLY_REDIS"))?;
                Box::new(RedisPassword::new(&fly.fly, name))
            }
            IssuerName::ResendKeys => {
                Box::new(self.mailer()?.resend.api_keys(Permission::SendingAccess { domain_id: None }))
            }
            IssuerName::StripeEndpoints => {
                let (stripe, token) = self.stripe()?;
                Box::new(stripe.webhook_endpoints(token, pair.old_id().unwrap_or_default()))
            }
        })
    }

    /// Neon's keys, by the authority of one of them.
    pub(super) fn neon_keys_as(&self, key: &SecretText) -> Result<neon::ApiKeys, RotationError> {
        let neon = self.neon()?;
        let key = SecretText::new(key.expose().to_owned());
        Ok(neon::ApiKeys::new(neon.neon.with_token(key), neon.org.clone()))
    }

    /// The credential of reseal's own that manages this secret, and its setting.
    pub(super) fn authority(&self, secret: SecretName) -> Option<(&'static str, &SecretText)> {
        match secret {
            SecretName::FlyApiToken => self.fly.as_ref().map(|fly| ("RESEAL_FLY_TOKEN", fly.token.as_ref())),
            SecretName::NeonApiKey => {
                self.neon.as_ref().map(|neon| ("RESEAL_NEON_TOKEN", neon.token.as_ref()))
            }
            SecretName::ResendApiKey => {
                self.mailer.as_ref().map(|mailer| ("RESEAL_RESEND_TOKEN", mailer.token.as_ref()))
            }
            SecretName::StripeApiKey => {
                let token = self.billing.as_ref().and_then(|billing| billing.token.as_deref());
                token.map(|token| ("RESEAL_STRIPE_TOKEN", token))
            }
            _ => None,
        }
    }

    /// Stripe, with the key that reseal has for itself.
    pub(super) fn stripe(&self) -> Result<(&Stripe, &SecretText), RotationError> {
        let billing = self.billing()?;
        let token =
            billing.token.as_deref().ok_or_else(|| missing("no access to Stripe", "RESEAL_STRIPE_TOKEN"))?;
        Ok((&billing.stripe, token))
    }

    /// The location of this name.
    pub(super) fn location(&self, name: LocationName) -> Result<Box<dyn Location>, RotationError> {
        Ok(match name {
            LocationName::Fly(secret) => {
                let fly = self.fly()?;
                Box::new(AppSecret::new(&fly.fly, &fly.app, secret))
            }
            LocationName::GitHub(secret) => Box::new(ActionsSecret::new(&self.publisher()?.github, secret)),
        })
    }

    /// The probe of this name.
    pub(super) fn probe(&self, name: ProbeName) -> Result<Box<dyn Probe>, RotationError> {
        Ok(match name {
            ProbeName::FlyToken => Box::new(TokenProbe::new(&self.fly()?.fly)),
            ProbeName::NeonKey => {
                let neon = self.neon()?;
                Box::new(neon::KeyProbe::new(neon.neon.clone(), neon.org.clone()))
            }
            ProbeName::PostgresLogin => Box::new(PostgresLogin::new(LOGIN_TIMEOUT)),
            ProbeName::RedisLogin => Box::new(RedisLogin::new(LOGIN_TIMEOUT)),
            ProbeName::ResendKey => Box::new(self.mailer()?.resend.key_probe()),
            ProbeName::StripeKey => Box::new(self.billing()?.stripe.key_probe()),
        })
    }

    /// The role of the control plane's database whose password is made: the one in the old URL, or the other of its
    /// pair.
    async fn role(
        &self,
        pair: &Pair,
        which: Which,
        patience: Patience,
    ) -> Result<RolePassword, RotationError> {
        let neon = self.neon()?;
        let old = pair.old_value().ok_or_else(|| {
            RotationError::refused(
                "the old DATABASE_URL is not known, and so neither its role nor its database",
                "reseal rotate adopt DATABASE_URL",
            )
        })?;
        let place = DatabasePlace::of(old)?;
        let branch = neon.neon.default_branch(&neon.project).await?;
        let role = match which {
            Which::Same => place.role,
            Which::Other => other_role(&place.role)?,
        };
        Ok(RolePassword {
            neon: neon.neon.clone(),
            project: neon.project.clone(),
            branch: branch.id,
            role,
            database: place.database,
            endpoint: None,
            route: Route::of(old),
            patience,
        })
    }
}

impl FlyApp {
    /// The organization's tokens; a new one is like the one of this id.
    pub(super) fn tokens(&self, like: Option<String>) -> Result<Tokens, RotationError> {
        let org = self.org.clone().ok_or_else(|| missing("whose tokens", "RESEAL_FLY_ORG"))?;
        Ok(Tokens::new(&self.fly, org, like, TokenProfile::organization()).living(TOKEN_LIFETIME))
    }
}

enum Which {
    Same,
    Other,
}

/// What a database URL says besides the password.
pub(super) struct DatabasePlace {
    pub(super) role: String,
    pub(super) database: String,
}

impl DatabasePlace {
    pub(super) fn of(url: &SecretText) -> Result<Self, RotationError> {
        let odd = || {
            RotationError::refused(
                "the old DATABASE_URL names no role and no database",
                "reseal rotate adopt DATABASE_URL: postgresql://ROLE:…@HOST/DATABASE",
            )
        };
        let parsed: url::Url = url.expose().parse().map_err(|_| odd())?;
        let database = parsed.path().trim_start_matches('/').to_owned();
        let role = parsed.username().to_owned();
        if role.is_empty() || database.is_empty() { Err(odd()) } else { Ok(Self { role, database }) }
    }
}

/// The other of a pair of roles, `NAME_a` and `NAME_b`.
pub(super) fn other_role(role: &str) -> Result<String, RotationError> {
    let other = match (role.strip_suffix("_a"), role.strip_suffix("_b")) {
        (Some(name), _) => format!("{name}_b"),
        (_, Some(name)) => format!("{name}_a"),
        (None, None) => {
            return Err(RotationError::refused(
                format!("role {role} is not one of a pair, NAME_a and NAME_b"),
                "make the pair, both members of the owner; or: reseal rotate DATABASE_URL --strategy reset",
            ));
        }
    };
    Ok(other)
}

impl SecretName {
    /// How a value of it is tried without side effects, where that can be done.
    pub fn probe(self) -> Option<ProbeName> {
        match self {
            Self::FlyApiToken => Some(ProbeName::FlyToken),
            Self::NeonApiKey => Some(ProbeName::NeonKey),
            Self::DatabaseUrl => Some(ProbeName::PostgresLogin),
            Self::TenantRedisUrl => Some(ProbeName::RedisLogin),
            Self::ResendApiKey => Some(ProbeName::ResendKey),
            Self::StripeApiKey => Some(ProbeName::StripeKey),
            Self::SecretsEncryptionKey
            | Self::ResendFromEmail
            | Self::StripeWebhookSecret
            | Self::GithubToken => None,
        }
    }
}
