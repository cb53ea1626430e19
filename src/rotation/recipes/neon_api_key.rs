//! `NEON_API_KEY`.

use super::{DEPLOY, HEALTH, await_death, contacts, prove, revoke, sweep, write_fly};
use crate::rotation::{
    SecretName,
    recipe::{
        Action, Authority, Check, Exercise, IssuerName, Overlap, ProbeName, Recipe, Rollout, Step, Strategy,
    },
};

pub(super) static RECIPE: Recipe = Recipe {
    secret: SecretName::NeonApiKey,
    purpose: "Makes and deletes the Neon branches of tenants. Its holder can also reveal the password of every role.",
    kept: &["Fly secret of the control plane"],
    coupled: None,
    blast_radius: "Tenants can't be made or deleted. Tenants that run go on running.",
    half_done: "Both keys work until the old one is revoked: nothing breaks, and a leaked old key stays dangerous.",
    watch: None,
    contacts: &[contacts::NEON],
    max_age_days: Some(90),
    rollout: Rollout::Deploy,
    by_hand: include_str!("by_hand/neon_api_key.sh"),
    strategies: &[Strategy {
        name: "two-keys",
        when: "Always: both keys work until the old one is revoked.",
        overlap: Overlap::UntilRevoked,
        steps: &[
            Step {
                name: "list-old",
                action: Action::Check(Check::OldIsKnown(IssuerName::NeonKeys)),
                text: "List the live API keys and find the old one by its id. Only that id is revoked later.",
                calls: "GET /api_keys",
                by: Authority::NeonToken,
                seconds: 1,
            },
            Step {
                name: "mint",
                action: Action::Mint(IssuerName::NeonKeys),
                text: "Make an API key, named after this rotation.",
                calls: "POST /api_keys",
                by: Authority::NeonToken,
                seconds: 1,
            },
            prove(ProbeName::NeonKey, "The new key lists projects.", "GET /projects"),
            write_fly("NEON_API_KEY"),
            DEPLOY,
            HEALTH,
            Step {
                name: "test-provision",
                action: Action::Exercise(Exercise::TestProvision),
                text: "Have the control plane make an organization, wait until it runs, and delete it.",
                calls: "POST, GET and DELETE {control plane}/cp/orgs",
                by: Authority::ControlPlaneToken,
                seconds: 90,
            },
            revoke(
                IssuerName::NeonKeys,
                Authority::NewValue,
                "Revoke the old key by its id, with the new key.",
                "DELETE /api_keys/{id}",
            ),
            await_death(ProbeName::NeonKey, "Use the old key until it gets 401.", "GET /projects"),
            sweep(IssuerName::NeonKeys, Authority::NewValue, "GET /api_keys"),
        ],
    }],
};
