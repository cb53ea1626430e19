//! `SECRETS_ENCRYPTION_KEY` in place: the re-key of the tenants' table, as steps of a rotation.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::sync::watch;

use super::{
    Rotation, RotationError,
    engine::detail_of,
    estate::{Estate, Table},
    outcome::{Taken, Wait},
    recipe::{Action, Check, InPlace},
    state::Event,
};
use crate::{
    keyring::kms,
    keyring::spec::KeySpec,
    rekey::{
        self, Intent, Job, KeyChoice, OldKey, Options, Outcome, RekeyError, RetireError, Status,
        plan::Planned, stop_signal,
    },
    secret::SecretText,
    store::{FenceMode, Target},
};

/// How long others may hold the table before raising a fence gives up.
const FENCE_PATIENCE: Duration = Duration::from_secs(60);

/// What tells the control plane that it works under a KMS.
pub(super) const KMS_KEY: &str = "KMS_KEY_ARN";

/// The names under which an app on Fly has credentials for AWS.
const AWS_NAMES: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"];

/// What an error of the re-key makes of a step.
fn of_rekey(error: &RekeyError) -> Taken {
    if error.is_resumable() { Taken::NotDone(error.to_string()) } else { Taken::Failed(error.to_string()) }
}

impl Estate {
    /// The table and its keys.
    pub(super) fn keyed_table(&self) -> Result<(&Table, &KeyChoice), RotationError> {
        let table = self.table()?;
        let keys = table.keys.as_ref().ok_or_else(|| RotationError::Settings {
            what: "the keys of the tenants' table are not named".to_owned(),
            hint: "--old static:env:SECRETS_ENCRYPTION_KEY --new aws-kms:ARN".to_owned(),
        })?;
        Ok((table, keys))
    }
}

impl Table {
    /// The table, as it is now.
    pub(super) async fn target(&self) -> Result<Target, RekeyError> {
        let inspection = self.store.inspect(&self.name).await?;
        let refusals: Vec<_> = inspection.refusals().map(|finding| finding.what.clone()).collect();
        inspection
            .target
            .clone()
            .filter(|_| refusals.is_empty())
            .ok_or_else(|| RekeyError::Refused { what: refusals.join("; "), hint: "reseal plan".to_owned() })
    }
}

impl Rotation<'_> {
    pub(super) async fn in_place(&self, part: InPlace) -> Result<Taken, RotationError> {
        let (table, keys) = self.tools.estate.keyed_table()?;
        let done = match part {
            InPlace::Observe => fence(table, keys, FenceMode::Observe).await,
            InPlace::Enforce => fence(table, keys, FenceMode::Enforce).await,
            InPlace::Run => Ok(run(table, keys, table.options.clone()).await),
            InPlace::Verify => verify(table, keys).await,
            InPlace::Retire => self.retire(table, keys).await,
        };
        Ok(done.unwrap_or_else(|error| of_rekey(&error)))
    }

    async fn retire(&self, table: &Table, keys: &KeyChoice) -> Result<Taken, RekeyError> {
        let Some(old) = keys.old.first() else {
            return Ok(Taken::Failed(
                "no old key is named: --old static:env:SECRETS_ENCRYPTION_KEY".to_owned(),
            ));
        };
        let old = OldKey::load(old).await?;
        let retired = table.store.retirements().await?;
        if retired.iter().any(|retired| retired.key == old.name()) {
            return Ok(Taken::done(json!({"key": old.name(), "note": "retired already"})));
        }
        let job = job(table, keys, Intent::Verify).await?;
        let waivers: Vec<String> = self.asked.accept_unverified.iter().cloned().collect();
        Ok(match rekey::retire(&job, &old, &waivers).await {
            Ok(retired) => Taken::done(json!({
                "key": retired.key, "certificate_sha256": hex::encode(retired.sha256),
                "note": format!("{} is retired", retired.key),
            })),
            Err(RetireError::Obstacles(obstacles)) => {
                let texts: Vec<_> = obstacles.iter().map(|obstacle| obstacle.what.as_str()).collect();
                let texts = texts.join("; ");
                let wait = Wait::for_(format!("what stands in the way of retiring the old key: {texts}"));
                let waivers: Option<Vec<_>> = obstacles
                    .iter()
                    .map(|obstacle| Some(format!("--accept-unverified {}", obstacle.waiver.as_ref()?)))
                    .collect();
                Taken::Waits(match waivers {
                    Some(waivers) => wait.with(waivers.join(" ")),
                    None => wait,
                })
            }
            Err(RetireError::Rekey(error)) => return Err(error),
        })
    }

    /// Takes down the fence that only observes, if it does.
    pub(super) async fn stop_observing(&self) -> Result<Taken, RotationError> {
        let (table, _) = self.tools.estate.keyed_table()?;
        let name = table.name.logical().to_owned();
        let lowered = rekey::lower_fence(table.store.as_ref(), &name, FENCE_PATIENCE, |_| ()).await;
        Ok(lowered.map_or_else(|error| of_rekey(&error), |_| Taken::done(json!({"fence": "off"}))))
    }

    /// The plan of the re-key, which must not be refused.
    pub(super) async fn census(&self) -> Result<Taken, RotationError> {
        let (table, keys) = self.tools.estate.keyed_table()?;
        let planned =
            rekey::plan::plan(Arc::clone(&table.store), &table.name, keys, table.options.clone()).await;
        Ok(match planned {
            Ok(Planned::Looked(plan)) if !plan.is_refused() => {
                Taken::done(json!({"plan": plan.digest.to_string()}))
            }
            Ok(refused) => {
                let findings = match refused {
                    Planned::Looked(plan) => plan.findings,
                    Planned::Refused { findings, .. } => findings,
                };
                let found: Vec<_> = findings.iter().map(|finding| finding.what.as_str()).collect();
                Taken::Failed(format!("the plan of the re-key is refused: {}", found.join("; ")))
            }
            Err(error) => of_rekey(&error),
        })
    }

    /// The app has what it needs to reach the KMS, and the KMS key wraps and unwraps, as far as it can be seen from
    /// here.
    pub(super) async fn kms_on_app(&self) -> Result<Taken, RotationError> {
        let (_, keys) = self.tools.estate.keyed_table()?;
        let fly = self.tools.estate.fly()?;
        let KeySpec::Kms(spec) = &keys.new else {
            return Ok(Taken::Failed("the new key is not a KMS key: --new aws-kms:ARN".to_owned()));
        };
        let there = match fly.fly.secrets(&fly.app).await {
            Ok(there) => there,
            Err(error) => return Ok(Taken::of_look(&error)),
        };
        let lacks: Vec<_> =
            AWS_NAMES.into_iter().filter(|name| !there.iter().any(|entry| entry.name == *name)).collect();
        if !lacks.is_empty() && matches!(spec, crate::keyring::spec::KmsSpec::Aws(_)) {
            return Ok(Taken::Failed(format!("app {} lacks {}", fly.app, lacks.join(", "))));
        }
        let tried = async {
            let kms = kms::connect(spec).await.map_err(|error| error.to_string())?;
            let context = kms::Context::new();
            let made = kms.generate_data_key(&context).await.map_err(|error| error.to_string())?;
            let opened = kms.decrypt(&made.wrapped, &context).await.map_err(|error| error.to_string())?;
            if opened == made.key {
                Ok(kms.key_name().to_owned())
            } else {
                Err("it unwraps to another key".to_owned())
            }
        };
        Ok(match tried.await {
            Ok(key) => {
                let is_there = there.iter().any(|entry| entry.name == KMS_KEY);
                Taken::done(json!({"key": key, KMS_KEY: is_there}))
            }
            Err(problem) => Taken::Failed(format!("the new KMS key: {problem}")),
        })
    }

    /// Why the control plane keeps the name of the KMS key, though the rotation turns back; `None` when it may go.
    pub(super) async fn keeps_kms_key(&self) -> Result<Option<Taken>, RotationError> {
        let looked = self.steps.iter().find(|step| step.action == Action::Check(Check::KmsOnApp));
        let looked = match looked {
            Some(step) => self.recorded(step.name, Event::Succeeded).await?,
            None => None,
        };
        if looked.is_some_and(|record| detail_of(&record)[KMS_KEY] == json!(true)) {
            return Ok(Some(Taken::done(json!({"note": format!("{KMS_KEY} was there before, and stays")}))));
        }
        let (table, keys) = self.tools.estate.keyed_table()?;
        let counted = async {
            let target = table.target().await?;
            let store = Arc::clone(&table.store);
            let job = rekey::prepare(store, target, keys, table.options.clone(), Intent::Look).await?;
            rekey::census(&Arc::new(job)).await
        };
        Ok(match counted.await.map(|census| census.current + census.wrapped) {
            Ok(0) => None,
            Ok(new) => Some(Taken::Failed(format!(
                "{new} values are under the new key already, and without {KMS_KEY} the control plane can't read them: take \
                 them back first, reseal run --format v1 --old {} --new {}",
                keys.new,
                keys.old.first().map_or_else(|| "KEY".to_owned(), ToString::to_string),
            ))),
            Err(error) => Some(of_rekey(&error)),
        })
    }

    /// What the control plane calls the new key.
    pub(super) fn kms_key_name(&self) -> Result<SecretText, RotationError> {
        let (_, keys) = self.tools.estate.keyed_table()?;
        let name = keys.new.to_string();
        let name = name.split_once(':').map_or(name.as_str(), |(_, name)| name);
        Ok(SecretText::new(name.to_owned()))
    }
}

async fn job(table: &Table, keys: &KeyChoice, intent: Intent) -> Result<Arc<Job>, RekeyError> {
    let target = table.target().await?;
    let keys = KeyChoice { old: Vec::new(), ..keys.clone() };
    rekey::prepare(Arc::clone(&table.store), target, &keys, table.options.clone(), intent).await.map(Arc::new)
}

async fn fence(table: &Table, keys: &KeyChoice, mode: FenceMode) -> Result<Taken, RekeyError> {
    let (store, target) = (table.store.as_ref(), table.target().await?);
    let rule = rekey::fence_rule(store, &target.name, keys.format, &keys.new).await?;
    let fence = rekey::raise_fence(store, &target, mode, rule, FENCE_PATIENCE, |_| ()).await?;
    Ok(Taken::done(json!({"fence": fence.mode.as_str()})))
}

async fn verify(table: &Table, keys: &KeyChoice) -> Result<Taken, RekeyError> {
    let verified = rekey::verify(&job(table, keys, Intent::Verify).await?).await?;
    Ok(if verified.passed() && verified.is_whole() {
        let note = format!("{} values open under the new key", verified.opened);
        Taken::done(json!({"opened": verified.opened, "null": verified.empty, "note": note}))
    } else {
        Taken::Failed(format!("{} values do not open under the new key: reseal verify", verified.failed))
    })
}

/// Runs to the end, or as far as it goes.
pub(super) async fn run(table: &Table, keys: &KeyChoice, options: Options) -> Taken {
    let ended = async {
        let target = table.target().await?;
        let job = rekey::prepare(Arc::clone(&table.store), target, keys, options, Intent::Run).await?;
        rekey::run(job, stop_signal().1, watch::channel(Status::default()).0).await
    };
    ended.await.map_or_else(|error| of_rekey(&error), ran)
}

/// What a run's end makes of the step.
fn ran(report: rekey::Report) -> Taken {
    let run = report.run.run_id;
    match report.outcome {
        Outcome::Complete => {
            let note = format!("{} values re-keyed", report.tally.rekeyed);
            Taken::done(json!({"run": run, "rekeyed": report.tally.rekeyed, "note": note}))
        }
        Outcome::Quarantined => Taken::Waits(Wait::for_(
            "values that open under no key: reseal quarantine list; settle them, and go on",
        )),
        Outcome::Chased => {
            Taken::NotDone("values under an old key keep appearing: a writer still has it".to_owned())
        }
        Outcome::Paused => Taken::Waits(Wait::for_("a run that was paused: reseal resume")),
        Outcome::Interrupted => Taken::NotDone("the run was stopped".to_owned()),
        Outcome::Failed => Taken::Failed("the run failed in another process: reseal status".to_owned()),
    }
}
