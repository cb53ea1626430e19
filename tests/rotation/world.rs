//! A control plane, what it depends on, and an operator: everything that a rotation touches.

use std::{
    collections::BTreeMap,
    num::NonZero,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use reseal::{
    journal::{Hook, Owner, Vault},
    keyring::kms::{Kms, local::LocalKms},
    providers::{
        Issuer, Mailbox, Patience,
        control_plane::ControlPlane as ControlPlaneClient,
        fly::Fly as FlyClient,
        github::GitHub as GitHubClient,
        http::Manner as HttpManner,
        neon::{ApiKeys, Neon as NeonClient},
        resend::Resend as ResendClient,
        stripe::Stripe as StripeClient,
        upstash::Upstash as UpstashClient,
    },
    rotation::{
        Billing, Cache, Estate, FlyApp, Mailer, Manner, NeonProject, Operator, Publisher, SecretName, Tools,
        recipe::Ask,
    },
    secret::SecretText,
    store::{Credential, CredentialState, Store, sqlite::Sqlite},
};
use serde_json::json;
use tempfile::TempDir;

use super::table::Rows;
use crate::support::{
    folder_in_memory,
    postgres::TempPostgres,
    vendors::{
        control_plane::{ControlPlane, Surroundings},
        fly::{Fly, Made, ORG},
        fresh,
        github::{GitHub, REPOSITORY},
        neon::{Neon, PROJECT},
        resend::Resend,
        stripe::Stripe,
        upstash::{EMAIL, Upstash},
    },
};

pub(crate) const APP: &str = "molecule-cp";
pub(crate) const TENANTS: &str = "molecule-tenants";
pub(crate) const WORKFLOW: &str = "publish-platform-image.yml";
pub(crate) const FROM: &str = "Molecule AI <noreply@moleculesai.app>";

/// As fast as it goes.
pub(crate) const BRISK: HttpManner = HttpManner {
    timeout: Duration::from_secs(5),
    tries: 3,
    pause: Duration::from_millis(1),
    paced: false,
    times: NonZero::<u32>::MIN,
};

/// Enough for a server of this machine.
pub(crate) const PATIENCE: Patience =
    Patience { every: Duration::from_millis(1), at_most: Duration::from_millis(150) };

/// A person who gives what the test put here.
#[derive(Default)]
pub(crate) struct Person {
    pub(crate) gives: Mutex<Option<String>>,
    pub(crate) asked: Mutex<usize>,
}

#[async_trait]
impl Operator for Person {
    async fn give(&self, _: &Ask, _: Option<&str>) -> Option<SecretText> {
        *self.asked.lock().unwrap() += 1;
        self.gives.lock().unwrap().clone().map(SecretText::new)
    }

    async fn confirm(&self, _: &str) -> Option<bool> {
        Some(true)
    }
}

pub(crate) struct World {
    pub(crate) fly: Arc<Fly>,
    pub(crate) github: GitHub,
    pub(crate) neon: Neon,
    pub(crate) resend: Resend,
    pub(crate) stripe: Stripe,
    pub(crate) upstash: Upstash,
    pub(crate) control_plane: ControlPlane,
    pub(crate) estate: Estate,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) vault: Vault,
    pub(crate) person: Person,
    pub(crate) endpoint: String,
    /// The tenants' table, where the rotation touches it.
    pub(crate) rows: Option<Rows>,
    /// The role of the control plane in a real Postgres.
    pub(crate) role: String,
    folder: TempDir,
}

fn secret(text: &str) -> Arc<SecretText> {
    Arc::new(SecretText::new(text.to_owned()))
}

impl World {
    /// A world in which this secret is going to be rotated: what it is kept in is a real server.
    pub(crate) async fn start(subject: SecretName) -> Self {
        let folder = folder_in_memory();
        let fly = Arc::new(Fly::start());
        let made = |id| Made { id, state: "started" };
        fly.hurry_leases();
        fly.app(APP, &[made("e82d"), made("e82e")]);
        fly.app(TENANTS, &[made("7a01")]);
        let judge = Arc::clone(&fly);
        let github = GitHub::start(&[WORKFLOW], move |secrets| judge.is_live(&secrets["FLY_API_TOKEN"]));
        let (role, password) = (format!("cp_{}_a", fresh::number()), fresh::value("npg_"));
        let neon = if subject == SecretName::DatabaseUrl {
            let cluster = TempPostgres::shared();
            cluster.login(&role, &password);
            Neon::over(cluster, "postgres", &role, &password)
        } else {
            Neon::start()
        };
        let upstash =
            if subject == SecretName::TenantRedisUrl { Upstash::over_servers() } else { Upstash::start() };
        let (resend, stripe) = (Resend::start(), Stripe::start());
        resend.domain("moleculesai.app", "verified", "enabled");
        let session = fresh::value("session_");
        let environment = Arc::clone(&fly);
        let control_plane = ControlPlane::start(Surroundings {
            environment: Box::new(move || {
                environment.environment(APP).into_iter().next().unwrap_or_default()
            }),
            fly: (fly.machines_url(), TENANTS.to_owned()),
            neon: (neon.vendor.url().to_owned(), PROJECT.to_owned()),
            resend: resend.vendor.url().to_owned(),
            stripe: stripe.vendor.url().to_owned(),
            session: session.clone(),
        });
        let webhooks = format!("{}/webhooks/stripe", control_plane.vendor.url());
        let form = [("url", webhooks.as_str()), ("enabled_events[]", "*")];
        let (endpoint, _) = stripe.endpoint("sk_live_", "acct_1", &form);
        let path = folder.path().join("journal.db");
        std::fs::File::create(&path).unwrap();
        let store = Sqlite::open(&path).await.unwrap();
        store.migrate().await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let keyring = folder.path().join("keyring.json");
        let kms: Arc<dyn Kms> = Arc::new(LocalKms::create(&keyring).unwrap());
        let vault = Vault::unlock(store.as_ref(), &kms).await.unwrap();
        let mut world = Self {
            fly,
            github,
            neon,
            resend,
            stripe,
            upstash,
            control_plane,
            estate: Estate::default(),
            store,
            vault,
            person: Person::default(),
            endpoint,
            rows: None,
            role,
            folder,
        };
        world.estate = world.estate(&session);
        world.settle(&password).await;
        world.rows = world.table(subject, &keyring).await;
        world.estate.table = world.rows.as_ref().map(|rows| rows.table.clone());
        world
    }

    /// The table that a rotation of this secret touches.
    async fn table(&self, subject: SecretName, keyring: &std::path::Path) -> Option<Rows> {
        let new = match subject {
            SecretName::TenantRedisUrl => None,
            SecretName::SecretsEncryptionKey => Some(format!("local-kms:{}", keyring.display())),
            _ => return None,
        };
        let shared = self.fly.secret(APP, "TENANT_REDIS_URL").unwrap();
        self.fly.configure(TENANTS, "7a01", "REDIS_URL", &format!("{shared}/7"));
        Some(Rows::make(self.folder.path(), &shared, "7a01", new.as_deref()).await)
    }

    fn estate(&self, session: &str) -> Estate {
        let user = secret(&self.fly.user_token());
        let (machines, graphql) = (self.fly.machines_url(), self.fly.graphql_url());
        let neon = secret(self.neon.token());
        let admin = secret(self.resend.admin());
        let billing = secret(&self.stripe.key("rk_live_", "acct_1"));
        let repository = REPOSITORY.parse().unwrap();
        Estate {
            reprovision: None,
            fly: Some(FlyApp {
                fly: FlyClient::new(&machines, &graphql, user.clone(), BRISK).unwrap(),
                token: user,
                app: APP.to_owned(),
                org: Some(ORG.to_owned()),
                redis: None,
            }),
            publisher: Some(Publisher {
                github: GitHubClient::new(
                    self.github.vendor.url(),
                    secret(&self.github.token()),
                    repository,
                    BRISK,
                )
                .unwrap(),
                workflow: WORKFLOW.to_owned(),
                reference: "main".to_owned(),
            }),
            neon: Some(NeonProject {
                neon: NeonClient::new(
                    self.neon.vendor.url(),
                    SecretText::new(neon.expose().to_owned()),
                    BRISK,
                )
                .unwrap(),
                token: neon,
                org: None,
                project: PROJECT.to_owned(),
            }),
            mailer: Some(Mailer {
                resend: ResendClient::new(self.resend.vendor.url(), &admin, BRISK).unwrap(),
                token: admin,
                from: Some(FROM.parse::<Mailbox>().unwrap()),
            }),
            billing: Some(Billing {
                stripe: StripeClient::new(self.stripe.vendor.url(), BRISK).unwrap(),
                token: Some(billing),
            }),
            cache: Some(Cache {
                upstash: UpstashClient::new(
                    self.upstash.vendor.url(),
                    EMAIL,
                    SecretText::new(self.upstash.token().to_owned()),
                    BRISK,
                )
                .unwrap(),
                database: self.upstash.live()[0].0.clone(),
            }),
            control_plane: Some(
                ControlPlaneClient::new(self.control_plane.vendor.url(), Some(&secret(session)), BRISK)
                    .unwrap(),
            ),
            table: None,
            has_session: true,
            checkout: Some(("acme".to_owned(), "pro".to_owned())),
            journal_in_database: false,
        }
    }

    /// Gives the control plane its secrets, and the journal what is known of them.
    async fn settle(&self, password: &str) {
        let (token_id, token) = self.fly.token("molecule-cp", "deploy_organization", json!({}));
        let keys = ApiKeys::new(self.estate.neon.as_ref().unwrap().neon.clone(), None);
        let neon = keys.mint("molecule-cp").await.unwrap();
        let (resend_id, resend) = self.resend.key("molecule-cp production", true);
        let stripe = self.stripe.key("sk_live_", "acct_1");
        let signing = self.stripe.roll(&self.endpoint, -1);
        let (database, _) = self.upstash.live()[0].clone();
        let redis = self.upstash.connection_url(&database);
        let postgres = TempPostgres::shared().tcp_url("postgres", &self.role, password);
        let from = FROM.to_owned();
        let known = [
            (SecretName::FlyApiToken, Some(token_id), token.clone()),
            (SecretName::NeonApiKey, Some(neon.id), neon.value.expose().to_owned()),
            (SecretName::DatabaseUrl, None, postgres),
            (SecretName::TenantRedisUrl, Some(format!("database:{database}")), redis),
            (SecretName::ResendApiKey, Some(resend_id), resend),
            (SecretName::ResendFromEmail, None, from),
            (SecretName::StripeApiKey, None, stripe),
            (SecretName::StripeWebhookSecret, Some(self.endpoint.clone()), signing),
        ];
        self.github.set("FLY_API_TOKEN", &token);
        for (name, id, value) in known {
            self.fly.set(APP, name.as_str(), &value);
            self.adopt(name, id, Some(&value)).await;
        }
    }

    /// What `rotate adopt` does.
    pub(crate) async fn adopt(&self, secret: SecretName, id: Option<String>, value: Option<&str>) {
        let credential_id = format!("adopted-{}", fresh::number());
        let seal = |value: &str| {
            self.vault.seal(Owner::Credential(&credential_id), &SecretText::new(value.to_owned())).unwrap()
        };
        let credential = Credential {
            sealed: value.map(seal),
            credential_id,
            secret: secret.as_str().to_owned(),
            provider_id: id,
            rotation_id: None,
            state: CredentialState::Current,
            created_ms: 0,
        };
        self.store.adopt_credential(&credential).await.unwrap();
    }

    /// What a rotation of this world works with.
    pub(crate) fn tools<'a>(&'a self, manner: &'a Manner) -> Tools<'a> {
        Tools {
            store: self.store.as_ref(),
            vault: &self.vault,
            estate: &self.estate,
            operator: &self.person,
            tell: &|_| (),
            manner,
        }
    }

    /// What the control plane's machines have for a secret.
    pub(crate) fn in_use(&self, secret: SecretName) -> Vec<String> {
        let machines = self.fly.environment(APP);
        machines.into_iter().map(|mut machine| machine.remove(secret.as_str()).unwrap_or_default()).collect()
    }

    /// Whether its provider accepts a value now.
    pub(crate) fn is_live(&self, secret: SecretName, value: &str) -> bool {
        let password = |url: &str| {
            let url: url::Url = url.parse().unwrap();
            url.password().unwrap_or_default().to_owned()
        };
        match secret {
            SecretName::FlyApiToken => self.fly.is_live(value),
            SecretName::NeonApiKey => self.neon.is_live(value),
            SecretName::DatabaseUrl => self.neon.is_live(&password(value)),
            SecretName::TenantRedisUrl => self.upstash.is_live(&password(value)),
            SecretName::ResendApiKey => self.resend.is_live(value),
            SecretName::StripeApiKey => self.stripe.is_live(value),
            SecretName::StripeWebhookSecret => self.stripe.signs_with(value),
            SecretName::ResendFromEmail => value.ends_with("@moleculesai.app>"),
            SecretName::SecretsEncryptionKey | SecretName::GithubToken => true,
        }
    }

    /// Ids and names of everything that the secret's provider has live.
    pub(crate) fn live(&self, secret: SecretName) -> BTreeMap<String, String> {
        let live = match secret {
            SecretName::FlyApiToken => self.fly.live(),
            SecretName::NeonApiKey => self.neon.live(),
            SecretName::ResendApiKey => self.resend.live(),
            SecretName::TenantRedisUrl => self.upstash.live(),
            SecretName::StripeWebhookSecret => {
                self.stripe.live().into_iter().map(|(id, _, name)| (id, name.unwrap_or_default())).collect()
            }
            _ => Vec::new(),
        };
        live.into_iter().collect()
    }

    /// Cuts short the lease that a dead process has left.
    pub(crate) async fn bury(&self) {
        self.execute("UPDATE reseal_rotations SET lease_until = 0").await;
    }

    /// Runs a statement on the journal.
    pub(crate) async fn execute(&self, sql: &'static str) {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.journal());
        let mut conn = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
        sqlx::query(sql).execute(&mut conn).await.unwrap();
    }

    /// The journal's file.
    pub(crate) fn journal(&self) -> PathBuf {
        self.folder.path().join("journal.db")
    }

    /// Every vendor's server.
    pub(crate) fn vendors(&self) -> [&crate::support::vendors::Vendor; 7] {
        [
            &self.fly.vendor,
            &self.github.vendor,
            &self.neon.vendor,
            &self.resend.vendor,
            &self.stripe.vendor,
            &self.upstash.vendor,
            &self.control_plane.vendor,
        ]
    }
}

/// In no time.
pub(crate) fn manner(hook: Hook) -> Manner {
    Manner { patience: PATIENCE, workflow: PATIENCE, tries: 4, pause: Duration::from_millis(1), hook }
}
