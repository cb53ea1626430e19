//! What a secret is for, tried for real. Each can be tried again: what it makes it finds again, or deletes.

use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::{Rotation, RotationError, outcome::Taken, recipe::Exercise, state::Event};
use crate::{
    providers::{
        Mailbox, ProviderError,
        control_plane::{Acceptance, OrgState},
        github::{Conclusion, RunState},
    },
    secret::SecretText,
};

/// Resend's own inbox that takes everything.
const TEST_INBOX: &str = "delivered@resend.dev";

/// How far before the intent's time a run may have been created, by clocks that disagree, in milliseconds.
const CLOCKS_DISAGREE: i64 = 30_000;

impl Rotation<'_> {
    pub(super) async fn exercise(&self, exercise: Exercise, step: &str) -> Result<Taken, RotationError> {
        match exercise {
            Exercise::TenantApps => self.tenant_apps().await,
            Exercise::HealthThrice => {
                let control_plane = self.tools.estate.control_plane()?;
                Ok(Taken::of_answer(control_plane.healthy_thrice(&self.tools.manner.patience).await, |()| {
                    Taken::done(json!({"good_answers": 3}))
                }))
            }
            Exercise::Dispatch => self.dispatch().await,
            Exercise::Publish => self.publish().await,
            Exercise::DrainWorkflow => self.drain().await,
            Exercise::TestProvision => self.test_provision(step).await,
            Exercise::RealSend => self.real_send(step).await,
            Exercise::Checkout => self.checkout().await,
            Exercise::WebhookEvents => self.webhook_events().await,
        }
    }

    async fn tenant_apps(&self) -> Result<Taken, RotationError> {
        let fly = self.tools.estate.fly()?;
        let mut apps = self.tools.estate.tenant_apps().await?;
        if apps.is_empty() {
            apps.push(fly.app.clone());
        }
        let as_new = fly.fly.with_token(Self::copied(self.new_value()?).into());
        for app in &apps {
            match as_new.machines(app).await {
                Ok(_) => {}
                Err(error @ ProviderError::Unauthorized { .. }) => {
                    return Ok(Taken::Failed(format!(
                        "the new token is narrower than the old one: app {app}: {error}"
                    )));
                }
                // An app that is gone is no token's fault.
                Err(error) if error.is_missing() => {}
                Err(error) => return Ok(Taken::of_look(&error)),
            }
        }
        Ok(Taken::done(json!({"apps": apps.len(), "note": format!("{} apps", apps.len())})))
    }

    async fn dispatch(&self) -> Result<Taken, RotationError> {
        let (workflow, reference) = self.tools.estate.workflow()?;
        match workflow.dispatch(reference).await {
            Ok(dispatched) => match dispatched.run_id {
                Some(run) => Ok(ran(run)),
                None => self.find_run(dispatched.asked_at - Duration::milliseconds(CLOCKS_DISAGREE)).await,
            },
            Err(error) => Ok(Taken::of_change(&error)),
        }
    }

    /// What became of a dispatch whose reply was lost.
    pub(super) async fn find_dispatched(&self, step: &str) -> Result<Taken, RotationError> {
        let intended = self.recorded(step, Event::Intended).await?.map_or(0, |record| record.at_ms);
        let since = OffsetDateTime::from_unix_timestamp((intended - CLOCKS_DISAGREE) / 1000);
        self.find_run(since.unwrap_or(OffsetDateTime::UNIX_EPOCH)).await
    }

    async fn find_run(&self, since: OffsetDateTime) -> Result<Taken, RotationError> {
        let (workflow, _) = self.tools.estate.workflow()?;
        let found = self.tools.manner.patience.until(async || workflow.find(since).await).await;
        Ok(Taken::of_answer(found, |found| match found {
            Some(run) => ran(run),
            None => Taken::NotDone("no run of the workflow is to be seen: it is dispatched again".to_owned()),
        }))
    }

    async fn publish(&self) -> Result<Taken, RotationError> {
        let (workflow, _) = self.tools.estate.workflow()?;
        let Some(run) = self.journaled_number("dispatch", "run").await? else {
            return Ok(Taken::Failed("the journal does not say which run was dispatched".to_owned()));
        };
        let ended = self.tools.manner.workflow.until(async || {
            Ok::<_, ProviderError>(match workflow.state(run).await? {
                RunState::Underway => None,
                RunState::Ended(conclusion) => Some(conclusion),
            })
        });
        Ok(Taken::of_answer(ended.await, |ended| match ended {
            Some(Conclusion::Success) => {
                Taken::done(json!({"run": run, "note": format!("run {run} succeeded")}))
            }
            Some(other) => Taken::Failed(format!("run {run} of the workflow ended in {other}")),
            None => Taken::NotDone(format!("run {run} of the workflow is still under way")),
        }))
    }

    async fn drain(&self) -> Result<Taken, RotationError> {
        let (workflow, _) = self.tools.estate.workflow()?;
        let drained = self
            .tools
            .manner
            .workflow
            .until(async || Ok::<_, ProviderError>(workflow.underway().await?.is_empty().then_some(())));
        Ok(Taken::of_answer(drained.await, |drained| match drained {
            Some(()) => Taken::done(json!({"underway": 0})),
            None => Taken::NotDone(
                "runs of the workflow that may hold the old token are still under way".to_owned(),
            ),
        }))
    }

    /// The organization's name is this rotation's, so that a second try finds and deletes what the first one made.
    async fn test_provision(&self, step: &str) -> Result<Taken, RotationError> {
        let control_plane = self.tools.estate.control_plane()?;
        let slug = format!("reseal-{}", self.id()[14..].to_ascii_lowercase());
        if let Err(error) = control_plane.provision(&slug, "Rotation test").await {
            return Ok(match error {
                ProviderError::Unauthorized { .. } if !self.tools.estate.has_session => {
                    self.unverified(step, "the control plane wants a session: set RESEAL_CONTROL_PLANE_TOKEN")
                }
                error => Taken::of_change(&error),
            });
        }
        let ready = self.tools.manner.patience.until(async || {
            Ok::<_, ProviderError>(match control_plane.org(&slug).await? {
                Some(OrgState::Running) => Some(true),
                Some(OrgState::Failed) => Some(false),
                _ => None,
            })
        });
        let ready = ready.await;
        // Whatever came of it, nothing stays behind: tried again, it is found and deleted.
        if let Err(error) = control_plane.delete_org(&slug).await {
            return Ok(Taken::NotDone(error.to_string()));
        }
        Ok(Taken::of_answer(ready, |ready| match ready {
            Some(true) => Taken::done(json!({"organization": slug, "note": "made, ran, and deleted again"})),
            Some(false) => Taken::Failed("the control plane could not make a tenant with it".to_owned()),
            None => Taken::NotDone("the test organization did not come to life in time".to_owned()),
        }))
    }

    async fn real_send(&self, step: &str) -> Result<Taken, RotationError> {
        let mailer = self.tools.estate.mailer()?;
        let is_address = self.recipe.secret == super::SecretName::ResendFromEmail;
        let (from, key): (Option<Mailbox>, &SecretText) = if is_address {
            (self.new_value()?.expose().parse().ok(), &mailer.token)
        } else {
            (mailer.from.clone(), self.new_value()?)
        };
        let Some(from) = from else {
            return Ok(Taken::Failed("RESEND_FROM_EMAIL is not known: set RESEAL_RESEND_FROM".to_owned()));
        };
        // The same for every try: Resend sends it once.
        let once = self.mint_name(step);
        let email = match mailer.resend.send(key, &from, TEST_INBOX, &once).await {
            Ok(email) => email,
            Err(error) => return Ok(Taken::of_change(&error)),
        };
        let arrived = self
            .tools
            .manner
            .patience
            .until(async || Ok::<_, ProviderError>(mailer.resend.last_event(&email).await?.arrived()));
        Ok(Taken::of_answer(arrived.await, |arrived| match arrived {
            Some(true) => Taken::done(json!({"email": email, "note": "a test mail was delivered"})),
            Some(false) => Taken::Failed("the test mail was not delivered".to_owned()),
            None => Taken::NotDone("the test mail is still on its way".to_owned()),
        }))
    }

    async fn checkout(&self) -> Result<Taken, RotationError> {
        if !self.tools.estate.has_session {
            return Ok(self.unverified(
                "checkout",
                "it wants an authenticated test session: set RESEAL_CONTROL_PLANE_TOKEN",
            ));
        }
        let estate = self.tools.estate;
        let Some((org, plan)) = &estate.checkout else {
            return Ok(self.unverified(
                "checkout",
                "nothing says what to check out: set RESEAL_CHECKOUT_ORG and RESEAL_CHECKOUT_PLAN",
            ));
        };
        let control_plane = estate.control_plane()?;
        Ok(Taken::of_answer(control_plane.checkout(org, plan).await, |url| {
            Taken::done(json!({"host": url.host_str()}))
        }))
    }

    async fn webhook_events(&self) -> Result<Taken, RotationError> {
        let control_plane = self.tools.estate.control_plane()?;
        let now = self.tools.store.now_ms().await? / 1000;
        Ok(Taken::of_answer(control_plane.accepts_only(self.new_value()?, now).await, |acceptance| {
            match acceptance {
                Acceptance::ProvenOn => {
                    Taken::done(json!({"note": "the good event was taken, the forged one refused"}))
                }
                Acceptance::CheckIsOff => Taken::Failed(
                    "the control plane takes a forged event: signatures are not checked".to_owned(),
                ),
                Acceptance::Refused => {
                    Taken::Failed("the control plane refuses an event signed with the new secret".to_owned())
                }
            }
        }))
    }
}

fn ran(run: u64) -> Taken {
    Taken::done(json!({"run": run, "note": format!("run {run}")}))
}
