//! Every recipe, dying or failing at every step: at every instant the consumers have a credential that works, and in
//! the end there is exactly one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::{Arc, Mutex},
};

use reseal::{
    journal::{Hook, Moment, Owner},
    rotation::{
        Asked, Ending, Rotation, SecretName, open_rotation,
        recipe::{Action, Overlap, Step, Strategy},
    },
};
use tokio::sync::Notify;

use super::world::{PATIENCE, TENANTS, World, manner};
use crate::support::vendors::{
    Fault, Rule,
    neon::{BRANCH, PROJECT},
};

/// What happens to a rotation at one step.
#[derive(Debug, Clone)]
enum Blow {
    /// The process dies.
    Dies(Moment),
    /// The request of this number in the step has this fault.
    Fails(usize, Fault),
}

/// How a rotation went.
struct Journey {
    /// What each step asked for, by the number of the request.
    requests: BTreeMap<&'static str, Vec<Request>>,
    ending: Ending,
}

/// What a request does, at any of the vendors where it is the one of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Reads,
    Changes,
}

impl Request {
    /// What befalls it. For one that reads, to be lost is to lose its reply, and twice is once.
    fn faults(self) -> Vec<Fault> {
        let mut faults = vec![Fault::LoseReply, Fault::Refuse(500, "{}"), Fault::Refuse(403, "{}")];
        if self == Self::Changes {
            faults.extend([Fault::LoseRequest, Fault::Twice]);
        }
        faults
    }
}

/// What was so before.
struct Before {
    old: Vec<String>,
    live: BTreeMap<String, String>,
}

pub(super) fn strategy(secret: SecretName, name: &str) -> &'static Strategy {
    secret.recipe().strategy(Some(name)).unwrap()
}

/// Takes a rotation of a new world from its beginning to its end, with one blow on the way.
async fn travel(secret: SecretName, name: &'static str, blow: Option<(&'static str, Blow)>) -> Journey {
    let world = Arc::new(World::start(secret).await);
    world.prepare(secret, name).await;
    let before = Before { old: world.in_use(secret), live: world.live(secret) };
    let (died, requests) = (Arc::new(Notify::new()), Arc::new(Mutex::new(BTreeMap::new())));
    let hook = hook(Arc::clone(&world), secret, strategy(secret, name), blow.clone(), &died, &requests);
    let (armed, plain) = (manner(hook), manner(Hook::default()));
    let asked = Asked { stage: Some(false), ..Asked::default() };
    let mut rotation =
        Rotation::open(world.tools(&armed), secret, strategy(secret, name), asked).await.unwrap();
    let mut ending = tokio::select! {
        ending = rotation.advance() => Some(ending.unwrap()),
        () = died.notified() => None,
    };
    drop(rotation);
    for _ in 0..6 {
        if matches!(ending, Some(Ending::Done { .. } | Ending::RolledBack { .. })) {
            break;
        }
        world.vendors().iter().for_each(|vendor| vendor.heal());
        world.bury().await;
        world.time_passes(secret, name, &before).await;
        let Some(row) = open_rotation(world.store.as_ref(), Some(secret)).await.unwrap() else {
            // It died after its last record.
            ending = Some(Ending::Done { confirmed: Some(true) });
            break;
        };
        let mut rotation = Rotation::resume(world.tools(&plain), &row).await.unwrap();
        rotation.unpark().await.unwrap();
        ending = Some(rotation.advance().await.unwrap());
    }
    let ending = ending.expect("it went on");
    world.vendors().iter().for_each(|vendor| vendor.heal());
    judge(&world, secret, name, &before, &ending, &format!("{secret} {name} {blow:?}")).await;
    let requests = requests.lock().unwrap().clone();
    Journey { requests, ending }
}

/// Counts requests, checks what must hold at every instant, and strikes.
fn hook(
    world: Arc<World>,
    secret: SecretName,
    strategy: &'static Strategy,
    blow: Option<(&'static str, Blow)>,
    died: &Arc<Notify>,
    requests: &Arc<Mutex<BTreeMap<&'static str, Vec<Request>>>>,
) -> Hook {
    let (died, requests) = (Arc::clone(died), Arc::clone(requests));
    let struck = Arc::new(Mutex::new(false));
    let begun = Mutex::new([0; 7]);
    Hook::new(move |step, moment| {
        let (world, died, struck) = (Arc::clone(&world), Arc::clone(&died), Arc::clone(&struck));
        match moment {
            Moment::BeforeCall => *begun.lock().unwrap() = world.vendors().map(|vendor| vendor.seen().len()),
            Moment::AfterCall => {
                requests.lock().unwrap().insert(step, world.requests_since(&begun.lock().unwrap()));
                world.vendors().iter().for_each(|vendor| vendor.heal());
            }
            Moment::AfterRecord => {}
        }
        let now = blow.clone().filter(|(at, _)| *at == step).map(|(_, blow)| blow);
        async move {
            world.every_instant(secret, strategy, step).await;
            let strikes = |at: Moment| at == moment && !std::mem::replace(&mut *struck.lock().unwrap(), true);
            match now {
                Some(Blow::Dies(at)) if strikes(at) => {
                    died.notify_one();
                    std::future::pending::<()>().await;
                }
                Some(Blow::Fails(number, fault)) if strikes(Moment::BeforeCall) => {
                    for vendor in world.vendors() {
                        vendor.fault(Rule::any_after(number, fault.clone()));
                    }
                }
                _ => {}
            }
        }
    })
}

impl World {
    /// What a person and the providers have ready.
    pub(super) async fn prepare(&self, secret: SecretName, strategy: &str) {
        if secret == SecretName::DatabaseUrl && strategy == "alternate" {
            let neon = &self.estate.neon.as_ref().unwrap().neon;
            neon.create_role(PROJECT, BRANCH, &self.role.replace("_a", "_b"), PATIENCE).await.unwrap();
        }
        self.fly.token("somebody else's", "deploy_organization", serde_json::json!({}));
        self.resend.key("somebody else's", true);
        let given = match (secret, strategy) {
            (SecretName::StripeApiKey, _) => self.stripe.key("sk_live_", "acct_1"),
            (SecretName::StripeWebhookSecret, "dashboard") => self.stripe.roll(&self.endpoint, 86_400),
            (SecretName::ResendFromEmail, _) => "Molecule <hello@moleculesai.app>".to_owned(),
            _ => return,
        };
        *self.person.gives.lock().unwrap() = Some(format!("{given}\n"));
    }

    /// The requests that came after the first so many at each vendor.
    fn requests_since(&self, begun: &[usize; 7]) -> Vec<Request> {
        let mut requests = Vec::new();
        for (vendor, &begun) in self.vendors().iter().zip(begun) {
            for (number, seen) in vendor.seen()[begun..].iter().enumerate() {
                let request = if seen.method == "GET" { Request::Reads } else { Request::Changes };
                match requests.get_mut(number) {
                    None => requests.push(request),
                    Some(known) if request == Request::Changes => *known = request,
                    Some(_) => {}
                }
            }
        }
        requests
    }

    /// What only time brings: Stripe ends what it said it would.
    async fn time_passes(&self, secret: SecretName, strategy: &str, before: &Before) {
        match (secret, strategy) {
            (SecretName::StripeApiKey, _) if self.in_use(secret) != before.old => {
                self.stripe.expire(&before.old[0], -1);
            }
            // A day is over for the journal and for Stripe, once the new secret is in use.
            (SecretName::StripeWebhookSecret, "dashboard") if self.in_use(secret) != before.old => {
                self.stripe.advance(86_400);
                self.execute("UPDATE reseal_rotation_records SET at = at - 86400000").await;
            }
            _ => {}
        }
    }

    /// What must hold at every boundary.
    async fn every_instant(&self, secret: SecretName, strategy: &'static Strategy, step: &str) {
        if strategy.overlap != Overlap::None {
            for value in self.in_use(secret) {
                assert!(self.is_live(secret, &value), "at {step} a machine has a dead {secret}");
            }
            if let Some(value) = self.github.secret(secret.as_str()) {
                assert!(self.is_live(secret, &value), "at {step} the workflow has a dead {secret}");
            }
            for value in self.tenants_have(secret).await {
                assert!(self.is_live(secret, &value), "at {step} a tenant has a dead {secret}");
            }
        }
        let old = self.old_value(secret).await;
        let revoke = strategy.steps.iter().position(|step| matches!(step.action, Action::Revoke(_)));
        if let (Some(old), Some(revoke)) = (old, revoke)
            && !self.is_live(secret, &old)
        {
            let row = &self.store.rotations(Some(secret.as_str())).await.unwrap()[0];
            let records = self.store.rotation_records(&row.rotation_id).await.unwrap();
            let done: BTreeSet<_> = records
                .iter()
                .filter(|record| record.event == "succeeded")
                .map(|record| &*record.step)
                .collect();
            for proof in &strategy.steps[..revoke] {
                assert!(done.contains(proof.name), "revoked at {step}, before {} was done", proof.name);
            }
        }
    }

    /// What tenants hold of the secret: in their rows, and on their machine.
    async fn tenants_have(&self, secret: SecretName) -> Vec<String> {
        let Some(rows) = self.rows.as_ref().filter(|_| secret == SecretName::TenantRedisUrl) else {
            return Vec::new();
        };
        let machine = self.fly.config(TENANTS, "7a01")["env"]["REDIS_URL"].as_str().unwrap().to_owned();
        let mut urls = rows.redis_urls().await;
        urls.retain(|url| !url.contains("own"));
        urls.push(machine);
        urls
    }

    /// The value that was adopted, while the journal has it.
    async fn old_value(&self, secret: SecretName) -> Option<String> {
        let known = self.store.credentials(Some(secret.as_str())).await.unwrap();
        let old = known.into_iter().find(|known| known.rotation_id.is_none())?;
        let value = self.vault.open(Owner::Credential(&old.credential_id), &old.sealed?)?;
        Some(value.expose().to_owned())
    }
}

/// What must be so in the end.
async fn judge(world: &World, secret: SecretName, name: &str, before: &Before, ending: &Ending, of: &str) {
    let (now, live) = (world.in_use(secret), world.live(secret));
    let known = world.store.credentials(Some(secret.as_str())).await.unwrap();
    let current: Vec<_> = known.iter().filter(|known| known.state.as_str() == "current").collect();
    assert_eq!(current.len(), 1, "{of}: {ending:?} {known:?}");
    let recorded = world
        .vault
        .open(Owner::Credential(&current[0].credential_id), current[0].sealed.as_ref().unwrap())
        .unwrap();
    assert!(now.iter().all(|value| value == recorded.expose()), "{of}: the journal and the machines differ");
    assert!(world.is_live(secret, &now[0]), "{of}: what is in use is dead");
    assert!(known.iter().all(|known| known.state.as_str() != "stray"), "{of}: a stray is left");
    if secret == SecretName::FlyApiToken {
        assert_eq!(
            world.github.secret(secret.as_str()).as_ref(),
            Some(&now[0]),
            "{of}: the two places differ"
        );
    }
    assert!(world.control_plane.orgs().is_empty(), "{of}: a test organization is left");
    let tenants = world.tenants_have(secret).await;
    assert!(tenants.iter().all(|url| url.starts_with(&now[0])), "{of}: a tenant has another URL");
    assert_eq!(tenants.is_empty(), secret != SecretName::TenantRedisUrl, "{of}: tenants");
    match ending {
        Ending::Done { confirmed } => {
            assert_ne!(*confirmed, Some(false), "{of}: the death of the old one was not confirmed");
            assert_ne!(now, before.old, "{of}: nothing changed");
            let dies = secret != SecretName::ResendFromEmail;
            assert_eq!(world.is_live(secret, &before.old[0]), !dies, "{of}: the old one");
            // One more than the others, whoever made them: what came and what went are one each.
            assert_eq!(live.len(), before.live.len(), "{of}: {live:?} was {:?}", before.live);
            let others = before.live.iter().filter(|(id, _)| live.contains_key(*id)).count();
            let named = name != "dashboard" && !before.live.is_empty() && name != "reset";
            assert!(others + usize::from(named) >= before.live.len(), "{of}: somebody else's was revoked");
        }
        Ending::RolledBack { .. } => {
            assert_eq!(now, before.old, "{of}: it was not written back");
            assert_eq!(live, before.live, "{of}: what it minted is left");
        }
        Ending::Parked(wait) => panic!("{of}: still parked: {}", wait.what),
    }
}

/// A road, struck at every step in every way.
async fn matrix(secret: SecretName, name: &'static str) {
    let clean = travel(secret, name, None).await;
    assert!(matches!(clean.ending, Ending::Done { .. }));
    let (mut cases, mut done, mut rolled_back) = (1, 1, 0);
    let mut count = |ending: &Ending| {
        cases += 1;
        match ending {
            Ending::Done { .. } => done += 1,
            _ => rolled_back += 1,
        }
    };
    for step in strategy(secret, name).steps {
        for moment in [Moment::BeforeCall, Moment::AfterCall, Moment::AfterRecord] {
            count(&travel(secret, name, Some((step.name, Blow::Dies(moment)))).await.ending);
        }
        let requests = clean.requests.get(step.name).map_or(&[][..], |requests| requests);
        for number in struck(secret, step, requests.len()) {
            for fault in requests[number].faults() {
                count(&travel(secret, name, Some((step.name, Blow::Fails(number, fault)))).await.ending);
            }
        }
    }
    let summary = format!("{secret} {name}: {cases} cases, {done} done, {rolled_back} rolled back");
    drop(writeln!(std::io::stdout(), "{summary}"));
}

/// Which of a step's requests are struck, one by one.
fn struck(secret: SecretName, step: &Step, requests: usize) -> Vec<usize> {
    match step.action {
        // It is the same for every secret, so that one of them is enough for what lies between its ends.
        Action::Deploy if secret != SecretName::NeonApiKey => BTreeSet::from([0, requests.saturating_sub(1)])
            .into_iter()
            .filter(|&number| number < requests)
            .collect(),
        // What comes after so many is more of the same.
        _ => (0..requests.min(6)).collect(),
    }
}

macro_rules! roads {
    ($($test:ident: $secret:ident, $strategy:literal;)*) => {$(
        #[tokio::test]
        async fn $test() {
            matrix(SecretName::$secret, $strategy).await;
        }
    )*};
}

roads! {
    fly_api_token: FlyApiToken, "two-tokens";
    neon_api_key: NeonApiKey, "two-keys";
    database_url_reset: DatabaseUrl, "reset";
    database_url_alternate: DatabaseUrl, "alternate";
    tenant_redis_url_reset: TenantRedisUrl, "reset";
    tenant_redis_url_new_database: TenantRedisUrl, "new-database";
    resend_api_key: ResendApiKey, "two-keys";
    resend_from_email: ResendFromEmail, "address";
    stripe_api_key: StripeApiKey, "dashboard";
    stripe_webhook_secret_dashboard: StripeWebhookSecret, "dashboard";
    stripe_webhook_secret_second_endpoint: StripeWebhookSecret, "second-endpoint";
}
