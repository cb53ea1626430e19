//! Takes one step forward.

use serde_json::json;

use super::{
    Rotation, RotationError,
    estate::Held,
    in_place::KMS_KEY,
    outcome::{Taken, Wait},
    recipe::{Action, Ask, IssuerName, LocationName, ProbeName, Rollout, Step, Window},
    state::Event,
    values,
};
use crate::{
    journal::Owner,
    providers::{Life, Observed, ProviderError, fly::Deploy},
    secret::SecretText,
    store::{Credential, CredentialChange, CredentialState},
};

impl Rotation<'_> {
    /// Acts.
    pub(super) async fn act(&self, at: usize) -> Result<Taken, RotationError> {
        let step = self.steps[at];
        match step.action {
            Action::Check(check) => self.check(check).await,
            Action::Mint(issuer) => self.mint(issuer, step.name).await,
            Action::Ask(ask) => self.ask(&ask).await,
            Action::Confirm(what) => Ok(self.confirm(step.name, what).await),
            Action::Prove(probe) => self.prove(probe).await,
            Action::Write(location) => self.write(location).await,
            Action::Deploy => self.deploy(step.name).await,
            Action::Exercise(exercise) => self.exercise(exercise, step.name).await,
            Action::TenantRows => self.tenant_rows().await,
            Action::TenantMachines => self.tenant_machines().await,
            Action::InPlace(part) => self.in_place(part).await,
            // On the heap: it is large, and every other step would carry its room.
            Action::Reprovision(part) => Box::pin(self.reprovision(part)).await,
            Action::AwaitWindow(window) => self.await_window(window).await,
            Action::Revoke(issuer) => self.revoke(issuer).await,
            Action::AwaitDeath(probe) => self.await_death(probe).await,
            Action::Sweep(issuer) => self.sweep(issuer).await,
            Action::Remove(location) => self.remove(location).await,
        }
    }

    /// Finds out what became of a step that has an intent and no outcome.
    ///
    /// Only a mint and a dispatch do something else when they are done twice; all others are simply done again.
    pub(super) async fn observe(&self, at: usize) -> Result<Taken, RotationError> {
        let step = self.steps[at];
        match step.action {
            Action::Mint(issuer) => self.recover(issuer, step.name).await,
            Action::Exercise(super::recipe::Exercise::Dispatch) => self.find_dispatched(step.name).await,
            _ => self.act(at).await,
        }
    }

    /// The new value, without which there is nothing to do here.
    pub(super) fn new_value(&self) -> Result<&SecretText, RotationError> {
        self.pair.new_value().ok_or_else(|| RotationError::Corrupt {
            rotation_id: self.id().to_owned(),
            why: "it is past the step that brings the new value, and holds none".to_owned(),
        })
    }

    /// A credential that this rotation brings, sealed.
    pub(super) fn pending(
        &self,
        provider_id: Option<String>,
        value: &SecretText,
    ) -> Result<CredentialChange, RotationError> {
        let credential_id = ulid::Ulid::generate().to_string();
        let sealed = self.tools.vault.seal(Owner::Credential(&credential_id), value)?;
        Ok(CredentialChange::Add(Credential {
            credential_id,
            secret: self.recipe.secret.as_str().to_owned(),
            provider_id,
            rotation_id: Some(self.id().to_owned()),
            state: CredentialState::Pending,
            sealed: Some(sealed),
            created_ms: 0,
        }))
    }

    async fn ask(&self, ask: &Ask) -> Result<Taken, RotationError> {
        let mut problem: Option<String> = None;
        // A person mistypes; a file does not change.
        for _ in 0..3 {
            let Some(given) = self.tools.operator.give(ask, problem.as_deref()).await else { break };
            match values::check(Some(ask.value), given, self.pair.old_value()) {
                Ok(value) => {
                    let credentials = vec![self.pending(None, &value)?];
                    return Ok(Taken::Done(json!({"given_by": "operator"}), credentials));
                }
                Err(wrong) => problem = Some(wrong.to_string()),
            }
        }
        let what = ask.how;
        let what = match problem {
            Some(problem) => format!("a person: {problem}; {what}"),
            None => format!("a person: {what}"),
        };
        Ok(Taken::Waits(Wait::for_(what).with("--value-file FILE")))
    }

    async fn confirm(&self, step: &str, what: &str) -> Taken {
        if self.asked.accept_unverified.contains(step) {
            return Taken::done(json!({"accepted_unverified": step}));
        }
        match self.tools.operator.confirm(what).await {
            Some(true) => Taken::done(json!({"confirmed_by": "operator"})),
            Some(false) => Taken::Waits(Wait::for_(format!("a person who says no so far: {what}"))),
            None => Taken::Waits(
                Wait::for_(format!("a person: {what}")).with(format!("--accept-unverified {step}")),
            ),
        }
    }

    /// The new value works. A provider may take a moment until it knows what it has just made.
    async fn prove(&self, probe: ProbeName) -> Result<Taken, RotationError> {
        let (probe, value) = (self.tools.estate.probe(probe)?, self.new_value()?);
        let seen = self.await_life(|life| matches!(life, Life::Live), probe.as_ref(), value).await;
        Ok(match seen {
            Life::Live => Taken::done(json!({"live": true})),
            Life::Dead => Taken::Failed("the new value is refused".to_owned()),
            Life::Unknown(error) => Taken::of_look(&error),
        })
    }

    /// Probes until `wanted`, or until patience is spent; gives what was seen last.
    async fn await_life(
        &self,
        wanted: impl Fn(&Life) -> bool,
        probe: &dyn crate::providers::Probe,
        value: &SecretText,
    ) -> Life {
        let mut last = None;
        let looked = self.tools.manner.patience.until(async || {
            let life = probe.probe(value).await;
            let is_it = wanted(&life);
            // A refusal of the call itself will not turn into an answer.
            let hopeless = matches!(&life, Life::Unknown(error) if !error.is_transient());
            last = Some(life);
            Ok::<_, ProviderError>((is_it || hopeless).then_some(()))
        });
        drop(looked.await);
        last.unwrap_or(Life::Dead)
    }

    /// What is written to a location: the new value, or the KMS key's name beside the old one.
    fn value_for(&self, location: LocationName) -> Result<SecretText, RotationError> {
        if location == LocationName::Fly(KMS_KEY) {
            return self.kms_key_name();
        }
        Ok(SecretText::new(self.new_value()?.expose().to_owned()))
    }

    async fn write(&self, name: LocationName) -> Result<Taken, RotationError> {
        let (location, value) = (self.tools.estate.location(name)?, self.value_for(name)?);
        if let Err(error) = location.write(&value).await {
            return Ok(Taken::of_change(&error));
        }
        Ok(match location.observe().await {
            Ok(Observed::Written { updated, digest }) => {
                Taken::done(json!({"location": name.as_str(), "updated": updated, "digest": digest}))
            }
            // It was taken; a list that does not show it yet is no proof of anything else.
            Ok(Observed::Absent) => {
                Taken::Unknown(format!("{} does not show what was written", name.as_str()))
            }
            Err(error) => Taken::done(json!({"location": name.as_str(), "unreadable": error.to_string()})),
        })
    }

    async fn remove(&self, name: LocationName) -> Result<Taken, RotationError> {
        Ok(match self.tools.estate.location(name)?.remove().await {
            Ok(()) => Taken::done(json!({"location": name.as_str(), "removed": true})),
            Err(error) => Taken::of_change(&error),
        })
    }

    async fn deploy(&self, step: &str) -> Result<Taken, RotationError> {
        match self.rollout() {
            Rollout::Deploy => self.deploy_as(&format!("{}-{step}", self.id())).await,
            Rollout::Stage => self.await_deploy().await,
        }
    }

    /// Restarts the control plane's machines; the same `mark` twice restarts none twice.
    pub(super) async fn deploy_as(&self, mark: &str) -> Result<Taken, RotationError> {
        let fly = self.tools.estate.fly()?;
        let deploy = Deploy {
            fly: fly.fly.clone(),
            app: fly.app.clone(),
            mark: mark.to_ascii_lowercase(),
            patience: self.tools.manner.patience,
        };
        Ok(match deploy.run().await {
            Ok(()) => Taken::done(json!({"app": fly.app, "mark": deploy.mark})),
            Err(error) => Taken::of_deploy(&error),
        })
    }

    /// Waits for somebody else's deploy.
    pub(super) async fn await_deploy(&self) -> Result<Taken, RotationError> {
        let fly = self.tools.estate.fly()?;
        let staged = match fly.fly.staged(&fly.app).await {
            Ok(staged) => staged,
            Err(error) => return Ok(Taken::of_look(&error)),
        };
        if !staged.iter().any(|name| name == self.recipe.secret.as_str()) {
            return Ok(Taken::done(json!({"app": fly.app, "deployed_by": "others"})));
        }
        let what = format!("the next deploy of {}, which brings the staged value to its machines", fly.app);
        Ok(Taken::Waits(Wait::for_(what).with("--deploy")))
    }

    async fn await_window(&self, window: Window) -> Result<Taken, RotationError> {
        let value = self.steps.iter().find(|step| matches!(step.action, Action::Ask(_) | Action::Mint(_)));
        let since = self.recorded_ms(value, Event::Succeeded).await?;
        let until = since + i64::from(window.hours) * 3_600_000;
        if self.tools.store.now_ms().await? >= until {
            return Ok(Taken::done(json!({"ended_ms": until})));
        }
        Ok(Taken::Waits(Wait {
            what: "the end of the old value's window: until then both work, and afterwards only the new one"
                .to_owned(),
            until_ms: Some(until),
            with: None,
        }))
    }

    async fn await_death(&self, probe: ProbeName) -> Result<Taken, RotationError> {
        let Some(Held { credential_id, value: Some(value), .. }) = &self.pair.old else {
            return Ok(Taken::done(json!({
                "confirmed": false,
                "note": "the old value is not known: its end was accepted, and is not confirmed",
            })));
        };
        let dead = CredentialChange::Set {
            credential_id: credential_id.clone(),
            state: CredentialState::Dead,
            wipe: true,
        };
        let probe = self.tools.estate.probe(probe)?;
        Ok(match self.await_life(|life| matches!(life, Life::Dead), probe.as_ref(), value).await {
            Life::Dead => Taken::Done(json!({"confirmed": true}), vec![dead]),
            Life::Live => Taken::Waits(Wait::for_(self.still_alive())),
            Life::Unknown(error) if self.is_gone().await? => {
                let note = format!("it is listed no more, and nothing answers where it was ({error})");
                Taken::Done(json!({"confirmed": true, "note": note}), vec![dead])
            }
            Life::Unknown(error) => Taken::of_look(&error),
        })
    }

    /// Whether what was revoked was a server, and its provider lists it no more; one list alone proves nothing.
    async fn is_gone(&self) -> Result<bool, RotationError> {
        let name = IssuerName::UpstashDatabases;
        if !self.steps.iter().any(|step| step.action == Action::Revoke(name)) {
            return Ok(false);
        }
        let issuer = self.tools.estate.issuer(name, &self.pair, self.tools.manner.patience).await?;
        for _ in 0..2 {
            let listed = issuer.list().await?;
            if listed.iter().any(|one| Some(one.id.as_str()) == self.pair.old_id()) {
                return Ok(false);
            }
            tokio::time::sleep(self.tools.manner.patience.every).await;
        }
        Ok(true)
    }

    fn still_alive(&self) -> String {
        let revoked = self.steps.iter().any(|step: &Step| matches!(step.action, Action::Revoke(_)));
        let secret = self.recipe.secret;
        if revoked {
            format!("the old {secret} to die: its end was accepted, and it still works")
        } else {
            format!("the old {secret} to expire: it still works")
        }
    }

    async fn revoke(&self, issuer: IssuerName) -> Result<Taken, RotationError> {
        let Some((old, id)) = self.pair.old.as_ref().zip(self.old_id(issuer)) else {
            return Ok(Taken::Failed("the old credential's id is not known".to_owned()));
        };
        let note = match issuer {
            IssuerName::StripeEndpoints => Some(self.undelivered(&id).await?),
            _ => None,
        };
        // With the new value where that is what authorises it.
        let issuer = self.authorised(issuer).await?;
        Ok(match issuer.revoke(&id).await {
            Ok(()) => {
                let revoked = CredentialChange::Set {
                    credential_id: old.credential_id.clone(),
                    state: CredentialState::Revoked,
                    wipe: false,
                };
                Taken::Done(json!({"revoked": id, "note": note}), vec![revoked])
            }
            Err(error) => Taken::of_change(&error),
        })
    }

    /// What the deletion of a webhook endpoint ends: its retries. Looked at before it is deleted.
    async fn undelivered(&self, endpoint: &str) -> Result<String, RotationError> {
        let made = self.steps.iter().find(|step| matches!(step.action, Action::Mint(_)));
        let since = self.recorded_ms(made, Event::Intended).await? / 1000;
        let (stripe, token) = self.tools.estate.stripe()?;
        let count = stripe.webhook_endpoints(token, endpoint).undelivered(since).await?;
        Ok(format!("{count} events had not reached every endpoint; the new one's are retried"))
    }
}
