//! An operator's desk: the vendors' addresses and tokens in the environment, and a journal of their own.

use std::{collections::BTreeMap, fs, process::Child, sync::Arc, time::Duration};

use crate::{
    cli::operator::{Operator, Said},
    support::vendors::{
        control_plane::{ControlPlane, Surroundings},
        fly::{Fly, Made, ORG},
        fresh,
        resend::Resend,
        stripe::Stripe,
    },
};

pub(super) const APP: &str = "molecule-cp";

/// The flags of every command here.
pub(super) const JOURNAL: [&str; 4] = ["--state-url", "sqlite://state.db", "--kms", "local-kms:keyring.json"];

pub(super) struct Desk {
    pub(super) operator: Operator,
    pub(super) fly: Arc<Fly>,
    pub(super) resend: Resend,
    pub(super) stripe: Stripe,
    pub(super) control_plane: ControlPlane,
    /// Id and value of the key for mail that the control plane has.
    pub(super) mail: (String, String),
    /// The secret key that it bills with.
    pub(super) billing: String,
}

impl Desk {
    /// Everything runs, and the journal is empty.
    pub(super) fn new() -> Self {
        let mut operator = Operator::new();
        let fly = Arc::new(Fly::start());
        fly.hurry_leases();
        fly.app(APP, &[Made { id: "e82d", state: "started" }]);
        let (resend, stripe) = (Resend::start(), Stripe::start());
        resend.domain("moleculesai.app", "verified", "enabled");
        let session = fresh::value("session_");
        let environment = Arc::clone(&fly);
        let control_plane = ControlPlane::start(Surroundings {
            environment: Box::new(move || {
                environment.environment(APP).into_iter().next().unwrap_or_default()
            }),
            fly: (fly.machines_url(), "molecule-tenants".to_owned()),
            neon: ("http://127.0.0.1:1".to_owned(), "none".to_owned()),
            resend: resend.vendor.url().to_owned(),
            stripe: stripe.vendor.url().to_owned(),
            session: session.clone(),
        });
        let mail = resend.key("molecule-cp production", true);
        let billing = stripe.key("sk_live_", "acct_1");
        fly.set(APP, "RESEND_API_KEY", &mail.1);
        fly.set(APP, "STRIPE_API_KEY", &billing);
        for (name, value) in [
            ("RESEAL_FLY_MACHINES_URL", fly.machines_url()),
            ("RESEAL_FLY_GRAPHQL_URL", fly.graphql_url()),
            ("RESEAL_FLY_ORG", ORG.to_owned()),
            ("RESEAL_RESEND_URL", resend.vendor.url().to_owned()),
            ("RESEAL_RESEND_FROM", "Molecule AI <noreply@moleculesai.app>".to_owned()),
            ("RESEAL_STRIPE_URL", stripe.vendor.url().to_owned()),
            ("RESEAL_CONTROL_PLANE_URL", control_plane.vendor.url().to_owned()),
            ("RESEAL_CHECKOUT_ORG", "acme".to_owned()),
            ("RESEAL_CHECKOUT_PLAN", "pro".to_owned()),
        ] {
            operator.set(name, &value);
        }
        for (name, token) in [
            ("RESEAL_FLY_TOKEN", fly.user_token()),
            ("RESEAL_RESEND_TOKEN", resend.admin().to_owned()),
            ("RESEAL_CONTROL_PLANE_TOKEN", session),
        ] {
            operator.set(name, &token);
            operator.guard(&token);
        }
        [&mail.1, &billing].into_iter().for_each(|value| operator.guard(value));
        operator.reseal(&["init", "--state-url", "sqlite://state.db"]).exits(0);
        Self { operator, fly, resend, stripe, control_plane, mail, billing }
    }

    /// The same, and the journal knows the key for mail.
    pub(super) fn with_mail_adopted() -> Self {
        let desk = Self::new();
        desk.operator.file("mail", &desk.mail.1, 0o600);
        let adopt = ["rotate", "adopt", "RESEND_API_KEY", "--id", &desk.mail.0, "--value-file", "mail"];
        desk.type_(&adopt).exits(0);
        desk
    }

    /// Types a command about the journal.
    #[track_caller]
    pub(super) fn type_(&self, words: &[&str]) -> Said {
        self.operator.reseal(&[words, &JOURNAL].concat())
    }

    /// The same, and leaves it running.
    pub(super) fn start(&self, words: &[&str]) -> Child {
        self.operator.start(&[words, &JOURNAL].concat())
    }

    /// What the control plane's machine has.
    pub(super) fn in_use(&self, secret: &str) -> String {
        let machines: Vec<BTreeMap<String, String>> = self.fly.environment(APP);
        machines[0][secret].clone()
    }

    /// Ids of the live keys for mail, without the administrator's.
    pub(super) fn mail_keys(&self) -> Vec<String> {
        self.resend.live().into_iter().filter(|(_, name)| name != "admin").map(|(id, _)| id).collect()
    }

    /// That none of these is in what is on the desk, in the clear.
    #[track_caller]
    pub(super) fn holds_none_of(&self, secrets: &[&str]) {
        for file in ["state.db", "state.db-wal"] {
            let Ok(bytes) = fs::read(self.operator.path(file)) else { continue };
            for secret in secrets {
                let secret = secret.as_bytes();
                assert!(!bytes.windows(secret.len()).any(|window| window == secret), "a secret is in {file}");
            }
        }
    }
}

/// Waits for what another process does.
#[track_caller]
pub(crate) fn wait_until(seen: impl Fn() -> bool) {
    for _ in 0..1200 {
        if seen() {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("it did not come");
}

/// What a process that was left running said.
pub(crate) fn ended(operator: &Operator, child: Child) -> Said {
    let output = child.wait_with_output().unwrap();
    let said = Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    operator.watch(&said);
    said
}
