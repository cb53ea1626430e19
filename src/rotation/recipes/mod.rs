//! The recipes, one file a secret, and the steps that several share.

use super::recipe::{Action, Authority, Exercise, IssuerName, LocationName, ProbeName, Recipe, Step};
use crate::rotation::SecretName;

mod contacts;
mod database_url;
mod fly_api_token;
mod github_token;
mod neon_api_key;
mod resend_api_key;
mod resend_from_email;
mod secrets_encryption_key;
mod stripe_api_key;
mod stripe_webhook_secret;
mod tenant_redis_url;

impl SecretName {
    /// Its recipe.
    pub fn recipe(self) -> &'static Recipe {
        match self {
            Self::FlyApiToken => &fly_api_token::RECIPE,
            Self::NeonApiKey => &neon_api_key::RECIPE,
            Self::DatabaseUrl => &database_url::RECIPE,
            Self::TenantRedisUrl => &tenant_redis_url::RECIPE,
            Self::SecretsEncryptionKey => &secrets_encryption_key::RECIPE,
            Self::ResendApiKey => &resend_api_key::RECIPE,
            Self::ResendFromEmail => &resend_from_email::RECIPE,
            Self::StripeApiKey => &stripe_api_key::RECIPE,
            Self::StripeWebhookSecret => &stripe_webhook_secret::RECIPE,
            Self::GithubToken => &github_token::RECIPE,
        }
    }
}

/// Writes the new value to the control plane's app.
const fn write_fly(secret: &'static str) -> Step {
    Step {
        name: "write-fly",
        action: Action::Write(LocationName::Fly(secret)),
        text: "Write the new value to the Fly secret of the control plane. Nothing restarts yet; a machine that \
               happens to start from here on has it, so it must work already.",
        calls: "POST /v1/apps/{app}/secrets",
        by: Authority::FlyToken,
        seconds: 2,
    }
}

/// Has the control plane's machines take what is written.
const DEPLOY: Step = Step {
    name: "deploy",
    action: Action::Deploy,
    text: "Restart the control plane's machines one after another, each with its own whole configuration, and wait \
           until its checks pass. Every other secret that is staged on the app is released with it.",
    calls: "POST /v1/apps/{app}/machines/{id} with min_secrets_version, under a lease",
    by: Authority::FlyToken,
    seconds: 60,
};

/// Asks the control plane how it is.
const HEALTH: Step = Step {
    name: "health",
    action: Action::Exercise(Exercise::HealthThrice),
    text: "Three good answers of /health in a row. It shows that the control plane runs, and not that it can use the \
           secret.",
    calls: "GET {control plane}/health",
    by: Authority::Nobody,
    seconds: 10,
};

/// Tries the new value.
const fn prove(probe: ProbeName, text: &'static str, calls: &'static str) -> Step {
    Step { name: "prove", action: Action::Prove(probe), text, calls, by: Authority::NewValue, seconds: 2 }
}

/// Ends the old one.
const fn revoke(issuer: IssuerName, by: Authority, text: &'static str, calls: &'static str) -> Step {
    Step { name: "revoke", action: Action::Revoke(issuer), text, calls, by, seconds: 2 }
}

/// Sees the old one refused.
const fn await_death(probe: ProbeName, text: &'static str, calls: &'static str) -> Step {
    Step {
        name: "confirm-dead",
        action: Action::AwaitDeath(probe),
        text,
        calls,
        by: Authority::OldValue,
        seconds: 15,
    }
}

/// Looks for what an interrupted mint left.
const fn sweep(issuer: IssuerName, by: Authority, calls: &'static str) -> Step {
    Step {
        name: "sweep",
        action: Action::Sweep(issuer),
        text: "List what this rotation minted, twice, and revoke anything but the credential in use: an interrupted \
               mint may have left one that nobody holds.",
        calls,
        by,
        seconds: 5,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::rotation::recipe::{Check, Undo};

    #[test]
    fn every_recipe_keeps_the_rules_of_its_kind() {
        for secret in SecretName::ALL {
            let recipe = secret.recipe();
            assert_eq!(recipe.secret, secret);
            for strategy in recipe.strategies {
                let of = format!("{secret} {}", strategy.name);
                let names: HashSet<_> = strategy.steps.iter().map(|step| step.name).collect();
                assert_eq!(names.len(), strategy.steps.len(), "{of}: two steps of one name");
                let at = |is: fn(&Action) -> bool| strategy.steps.iter().position(|step| is(&step.action));
                let last = |is: fn(&Action) -> bool| strategy.steps.iter().rposition(|step| is(&step.action));
                let write = last(|action| matches!(action, Action::Write(_)));
                let proof = last(|action| matches!(action, Action::Exercise(_) | Action::Prove(_)));
                let revoke = at(|action| matches!(action, Action::Revoke(_)));
                assert!(
                    revoke.is_none() || revoke > write,
                    "{of}: revoked before every location was written"
                );
                assert!(revoke.is_none() || revoke > proof, "{of}: revoked before proof");
                let made = at(|action| matches!(action, Action::Mint(_) | Action::Ask(_)));
                let written = at(|action| matches!(action, Action::Write(_)));
                assert!(made.is_none() || made < written, "{of}: written before it was made");
                let minted = at(|action| matches!(action, Action::Mint(issuer) if issuer.names()));
                let listed =
                    at(|action| matches!(action, Action::Check(Check::OldIsKnown(_) | Check::OldEndpoint)));
                assert!(
                    minted.is_none() || listed.is_some_and(|listed| Some(listed) < minted),
                    "{of}: minted before listing"
                );
                let swept = at(|action| matches!(action, Action::Sweep(_)));
                assert!(
                    minted.is_none() || swept.is_some(),
                    "{of}: what an interrupted mint left is not swept"
                );
            }
        }
    }

    #[test]
    fn an_emergency_revokes_before_it_distributes() {
        for strategy in SecretName::ALL.into_iter().flat_map(|secret| secret.recipe().strategies) {
            let steps = strategy.emergency_steps();
            assert_eq!(steps.len(), strategy.steps.len());
            let revoke = steps.iter().position(|step| matches!(step.action, Action::Revoke(_)));
            let write = steps.iter().position(|step| matches!(step.action, Action::Write(_)));
            assert!(revoke.is_none() || revoke < write, "{}", strategy.name);
            let first = steps.iter().position(|step| step.undo() == Undo::Never);
            assert!(revoke.is_none() || first <= revoke);
        }
    }
}
