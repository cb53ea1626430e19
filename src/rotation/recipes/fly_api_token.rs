//! `FLY_API_TOKEN`: the one secret in two places.

use super::{DEPLOY, HEALTH, await_death, contacts, prove, revoke, sweep, write_fly};
use crate::rotation::{
    SecretName,
    recipe::{
        Action, Authority, Check, Exercise, IssuerName, LocationName, Overlap, ProbeName, Recipe, Rollout,
        Step, Strategy,
    },
};

pub(super) static RECIPE: Recipe = Recipe {
    secret: SecretName::FlyApiToken,
    purpose: "Any call of the Fly Machines API: the control plane makes and deletes tenant machines, and GitHub \
              Actions pushes the tenant image to registry.fly.io/molecule-tenant.",
    kept: &["Fly secret of the control plane (b)", "GitHub Actions secret of the repository (a)"],
    coupled: Some("Both places hold the same token and change in one rotation, Fly first."),
    blast_radius: "Tenants can't be made, restarted or deleted, and no tenant image is published. Tenants that run \
                   go on running.",
    half_done: "With one place changed and the old token revoked, the other breaks, and neither shows on /health. Only \
                Fly changed: the publishing workflow fails with no alert, and tenants go on being made from a stale \
                `latest`. Only GitHub changed: images are published, so that everything looks fine on the build side, \
                and the control plane gets 401 from Fly and makes no tenant.",
    watch: None,
    contacts: &[contacts::FLY, contacts::GHCR],
    max_age_days: Some(90),
    rollout: Rollout::Deploy,
    by_hand: include_str!("by_hand/fly_api_token.sh"),
    strategies: &[Strategy {
        name: "two-tokens",
        when: "Always: both tokens work until the old one is revoked.",
        overlap: Overlap::UntilRevoked,
        steps: &[
            Step {
                name: "bootstrap",
                action: Action::Check(Check::FlyBootstrap),
                text: "Check that the bootstrap token is a user's: a deploy or organization token can't mint tokens.",
                calls: "POST graphql viewer",
                by: Authority::FlyToken,
                seconds: 1,
            },
            Step {
                name: "list-old",
                action: Action::Check(Check::OldIsKnown(IssuerName::FlyTokens)),
                text: "List the organization's live tokens and find the old one by its id. Only that id is revoked \
                       later, whatever else there is.",
                calls: "POST graphql limitedAccessTokens",
                by: Authority::FlyToken,
                seconds: 2,
            },
            Step {
                name: "workflow",
                action: Action::Check(Check::Workflow),
                text: "Check that the repository has the publishing workflow and that its secrets can be written.",
                calls: "GET actions/workflows/{file}, GET actions/secrets/public-key",
                by: Authority::GithubToken,
                seconds: 1,
            },
            Step {
                name: "mint",
                action: Action::Mint(IssuerName::FlyTokens),
                text: "Mint a token with the old one's profile and parameters, named after this rotation.",
                calls: "POST graphql createLimitedAccessToken",
                by: Authority::FlyToken,
                seconds: 2,
            },
            prove(
                ProbeName::FlyToken,
                "The new token is accepted by the Machines API.",
                "GET /v1/tokens/current",
            ),
            Step {
                name: "tenant-apps",
                action: Action::Exercise(Exercise::TenantApps),
                text: "With the new token, list the machines of every app that tenants have: a token that is narrower \
                       than the old one is found out here.",
                calls: "GET /v1/apps/{app}/machines",
                by: Authority::NewValue,
                seconds: 10,
            },
            write_fly("FLY_API_TOKEN"),
            DEPLOY,
            HEALTH,
            Step {
                name: "write-github",
                action: Action::Write(LocationName::GitHub("FLY_API_TOKEN")),
                text: "Write the new token to the repository's Actions secret, sealed to the repository's key.",
                calls: "PUT /repos/{repo}/actions/secrets/FLY_API_TOKEN",
                by: Authority::GithubToken,
                seconds: 2,
            },
            Step {
                name: "dispatch",
                action: Action::Exercise(Exercise::Dispatch),
                text: "Dispatch the publishing workflow.",
                calls: "POST actions/workflows/{file}/dispatches",
                by: Authority::GithubToken,
                seconds: 2,
            },
            Step {
                name: "publish",
                action: Action::Exercise(Exercise::Publish),
                text: "Wait until that run ends in success: it has pushed to both registries with the new token.",
                calls: "GET actions/runs/{id}",
                by: Authority::GithubToken,
                seconds: 600,
            },
            Step {
                name: "drain",
                action: Action::Exercise(Exercise::DrainWorkflow),
                text: "Wait until no run of the workflow is under way: one that began earlier holds the old token.",
                calls: "GET actions/workflows/{file}/runs",
                by: Authority::GithubToken,
                seconds: 60,
            },
            revoke(
                IssuerName::FlyTokens,
                Authority::FlyToken,
                "Revoke the old token by its id.",
                "POST graphql deleteLimitedAccessToken",
            ),
            await_death(
                ProbeName::FlyToken,
                "Use the old token until it gets 401: verifiers learn of a revocation within seconds, not at once.",
                "GET /v1/tokens/current",
            ),
            sweep(IssuerName::FlyTokens, Authority::FlyToken, "POST graphql limitedAccessTokens"),
        ],
    }],
};
