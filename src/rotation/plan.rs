//! What a rotation would do, before it does anything: pure, from the recipe and how it is asked for.
//!
//! A plan knows no provider and no journal, so that it is the same on every machine with the same version of reseal; its
//! [digest](Plan::digest) is what `rotate SECRET --plan DIGEST` is held to.

use serde::Serialize;

use super::{
    Asked, RotationError, SecretName,
    asked::{shape, steps},
    recipe::{Action, Authority, Overlap, Recipe, Rollout, Step, Strategy, Undo},
};
use crate::journal::PlanDigest;

/// A rotation that was not begun.
#[derive(Debug)]
pub struct Plan {
    /// The recipe.
    pub recipe: &'static Recipe,
    /// The way it is done.
    pub strategy: &'static Strategy,
    /// Whether the old value ends first.
    pub emergency: bool,
    /// When machines get the new value.
    pub rollout: Rollout,
    /// What is done, in order, as it is asked for.
    pub steps: Vec<Step>,
    /// The first step that can't be undone; as many as there are steps when all can.
    pub cut_over: usize,
}

impl Plan {
    /// The plan of rotating `secret` by the strategy of this name, or the usual one.
    ///
    /// # Errors
    /// [`RotationError::Refused`] for a secret that rotates itself; [`RotationError::Settings`] for a strategy that it
    /// does not have.
    pub fn of(secret: SecretName, strategy: Option<&str>, asked: &Asked) -> Result<Self, RotationError> {
        let recipe = secret.recipe();
        let names: Vec<_> = recipe.strategies.iter().map(|strategy| strategy.name).collect();
        if names.is_empty() {
            return Err(RotationError::refused(
                format!("{secret} is rotated by its issuer, and never here"),
                "reseal secrets list",
            ));
        }
        let strategy = recipe.strategy(strategy).ok_or_else(|| RotationError::Settings {
            what: format!("{secret} has no strategy of this name"),
            hint: format!("--strategy {}", names.join(" or ")),
        })?;
        let rollout = asked.rollout(recipe);
        let steps: Vec<_> = steps(strategy, asked).into_iter().map(|step| step.rolled_out(rollout)).collect();
        let cut_over = shape(&steps).cut_over;
        Ok(Self { recipe, strategy, emergency: asked.emergency, rollout, steps, cut_over })
    }

    /// About how long it takes, in seconds, besides what it [waits](Self::waits) for.
    pub fn seconds(&self) -> u32 {
        self.steps.iter().filter(|step| !is_window(step)).map(|step| step.seconds).sum()
    }

    /// What it waits for that is nobody's work: the next deploy, a vendor's window.
    pub fn waits(&self) -> Vec<String> {
        let deploy = self.steps.iter().any(|step| step.action == Action::Deploy);
        let deploy = (deploy && self.rollout == Rollout::Stage).then(|| "the next deploy".to_owned());
        let window = self.steps.iter().find_map(|step| match step.action {
            Action::AwaitWindow(window) => Some(format!("a window of {} hours", window.hours)),
            _ => None,
        });
        deploy.into_iter().chain(window).collect()
    }

    /// The steps between the end of the old value and the last place that gets the new one; none when both work until
    /// then.
    pub fn outage(&self) -> &[Step] {
        let ends_old = |step: &Step| match step.action {
            Action::Revoke(_) => true,
            Action::Mint(issuer) => issuer.replaces(),
            _ => false,
        };
        let delivers =
            |step: &Step| matches!(step.action, Action::Write(_) | Action::Deploy | Action::TenantMachines);
        let end = self.steps.iter().position(ends_old);
        let delivered = self.steps.iter().rposition(delivers);
        match (end, delivered) {
            (Some(end), Some(delivered)) if end < delivered => &self.steps[end..=delivered],
            _ => &[],
        }
    }

    /// The digest of everything that an operator approves with it.
    ///
    /// Construction: SHA-256 over `"reseal rotation plan" ‖ 0x00 ‖ JSON` of the secret, the strategy, how it is asked
    /// for, what is at stake, and of each step what it does, in words and as data, its calls, what authorises
    /// them, and how it is undone. Estimates of time are no part of it.
    pub fn digest(&self) -> PlanDigest {
        let step = |step: &Step| Approved {
            name: step.name,
            action: step.action,
            text: step.text,
            calls: step.calls,
            by: step.by,
            undo: step.undo(),
        };
        let approved = (
            (self.recipe.secret.as_str(), self.strategy.name),
            (self.emergency, self.rollout, self.strategy.overlap),
            (self.recipe.blast_radius, self.recipe.half_done),
            self.steps.iter().map(step).collect::<Vec<_>>(),
        );
        PlanDigest::of("reseal rotation plan", &approved)
    }

    /// Refuses unless this is the plan that was approved.
    ///
    /// # Errors
    /// [`RotationError::Refused`].
    pub fn require(&self, approved: &PlanDigest) -> Result<(), RotationError> {
        if self.digest() == *approved {
            return Ok(());
        }
        Err(RotationError::refused(
            "this is not what was planned: the secret, --strategy, --emergency, --stage or reseal itself is another",
            format!("look at what is so now: reseal rotate plan {}", self.recipe.secret),
        ))
    }
}

impl Step {
    /// The step as it is when machines get the new value so.
    fn rolled_out(self, rollout: Rollout) -> Self {
        if self.action != Action::Deploy || rollout == Rollout::Deploy {
            return self;
        }
        Self {
            text: "Wait until the next deploy of the control plane brings the staged value to its machines. The rotation \
                   parks until then; a machine that restarts has it before the others.",
            calls: "GET /v1/apps/{app}/secrets, GET /v1/apps/{app}/machines",
            seconds: 0,
            ..self
        }
    }
}

fn is_window(step: &Step) -> bool {
    matches!(step.action, Action::AwaitWindow(_))
}

/// What is approved of a step.
#[derive(Serialize)]
struct Approved {
    name: &'static str,
    action: Action,
    text: &'static str,
    calls: &'static str,
    by: Authority,
    undo: Undo,
}

impl Overlap {
    /// In words, after "old and new value".
    pub fn in_words(self) -> &'static str {
        match self {
            Self::UntilRevoked => "both work until the old one is revoked",
            Self::Window => "both work for a window that the vendor sets",
            Self::None => "never both work: the old one dies when the new one is made",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rekey::plan::NotADigest;

    fn plan(secret: SecretName, asked: &Asked) -> Plan {
        Plan::of(secret, None, asked).expect("it has a strategy")
    }

    #[test]
    fn a_digest_covers_each_thing_that_is_approved_of_a_step_and_no_estimate() {
        let asked = Asked::default();
        let digest = plan(SecretName::FlyApiToken, &asked).digest();
        let with = |change: fn(&mut Step)| {
            let mut plan = plan(SecretName::FlyApiToken, &asked);
            change(&mut plan.steps[3]);
            plan.digest()
        };
        assert_eq!(with(|step| step.seconds += 1), digest);
        let changes: [fn(&mut Step); 5] = [
            |step| step.name = "other",
            |step| step.text = "Other.",
            |step| step.calls = "GET /other",
            |step| step.by = Authority::Nobody,
            |step| step.action = Action::Deploy,
        ];
        changes.into_iter().for_each(|change| assert_ne!(with(change), digest));
        let mut shorter = plan(SecretName::FlyApiToken, &asked);
        shorter.steps.pop();
        assert_ne!(shorter.digest(), digest);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("abc".parse::<PlanDigest>(), Err(NotADigest));
    }

    #[test]
    fn there_is_an_outage_where_the_old_value_ends_before_the_new_one_is_everywhere() {
        let names = |plan: &Plan| plan.outage().iter().map(|step| step.name).collect::<Vec<_>>();
        let emergency = Asked { emergency: true, ..Asked::default() };
        assert!(names(&plan(SecretName::NeonApiKey, &Asked::default())).is_empty());
        assert_eq!(
            names(&plan(SecretName::NeonApiKey, &emergency)),
            ["revoke", "prove", "write-fly", "deploy"]
        );
        let reset = plan(SecretName::DatabaseUrl, &Asked::default());
        assert_eq!(names(&reset), ["reset", "prove", "write-fly", "deploy"]);
        assert_eq!(reset.steps[reset.cut_over].name, "reset");
        let tenants = plan(SecretName::TenantRedisUrl, &Asked::default());
        assert_eq!(tenants.outage().last().expect("a reset has one").name, "tenant-machines");
    }

    #[test]
    fn what_is_staged_waits_for_the_next_deploy_unless_it_is_an_emergency() {
        let staged = plan(SecretName::ResendApiKey, &Asked::default());
        assert_eq!((staged.rollout, staged.waits()), (Rollout::Stage, vec!["the next deploy".to_owned()]));
        let asks =
            [Asked { emergency: true, ..Asked::default() }, Asked { stage: Some(false), ..Asked::default() }];
        for asked in &asks {
            let at_once = plan(SecretName::ResendApiKey, asked);
            assert_eq!((at_once.rollout, at_once.waits()), (Rollout::Deploy, Vec::new()));
            assert_ne!(at_once.digest(), staged.digest());
        }
        let window = plan(SecretName::StripeWebhookSecret, &Asked::default());
        assert_eq!(window.waits(), ["the next deploy", "a window of 24 hours"]);
        assert!(window.seconds() < 600);
    }
}
