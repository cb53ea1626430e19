//! The settings of the vendors' APIs: from the environment (`RESEAL_FLY_APP`) and the file (`[providers.fly] app`), without
//! flags.

use super::settings::{Definition, Kind};

/// Every one, vendor by vendor.
pub(super) const PROVIDERS: &[Definition] = &[
    fly("fly-machines-url", "URL", "The Machines API").default(&["https://api.machines.dev/v1"]),
    fly("fly-graphql-url", "URL", "The GraphQL API").default(&["https://api.fly.io/graphql"]),
    token("fly", "fly-token", "A user's token, which may mint tokens; a deploy token can't"),
    fly("fly-app", "NAME", "The control plane's app").default(&["molecule-cp"]),
    fly("fly-org", "SLUG", "The organization that tokens belong to"),
    fly("fly-redis", "NAME", "The Redis add-on that Fly made"),
    fly("fly-rate-multiple", "N", "How many times the documented rate limits this account was granted")
        .default(&["1"]),
    github("github-url", "URL", "The API").default(&["https://api.github.com"]),
    token("github", "github-token", "A token that may write Actions secrets and dispatch workflows"),
    github("github-repo", "OWNER/NAME", "The repository that publishes images")
        .default(&["Molecule-AI/molecule-monorepo"]),
    github("github-workflow", "FILE", "The workflow that publishes them")
        .default(&["publish-platform-image.yml"]),
    github("github-ref", "REF", "The branch or tag that it is run on").default(&["main"]),
    neon("neon-url", "URL", "The API").default(&["https://console.neon.tech/api/v2"]),
    token("neon", "neon-token", "An API key that makes API keys and resets roles"),
    neon("neon-org", "ID", "The organization that API keys belong to; a person's own without"),
    neon("neon-project", "ID", "The control plane's project").default(&["cool-sea-89357706"]),
    neon("neon-rate-multiple", "N", "How many times the documented rate limits this account was granted")
        .default(&["1"]),
    resend("resend-url", "URL", "The API").default(&[reseal::providers::resend::URL]),
    token("resend", "resend-token", "A key with full access"),
    resend("resend-from", "ADDRESS", "RESEND_FROM_EMAIL as it is now"),
    stripe("stripe-url", "URL", "The API").default(&[reseal::providers::stripe::URL]),
    token("stripe", "stripe-token", "A key that may read events and manage webhook endpoints"),
    upstash("upstash-url", "URL", "The API").default(&["https://api.upstash.com/v2"]),
    upstash("upstash-email", "ADDRESS", "The account"),
    token("upstash", "upstash-token", "The account's management key"),
    upstash("upstash-database", "ID", "The database that tenants share"),
    control_plane("control-plane-url", "URL", "Where it is; https://APP.fly.dev without"),
    token("control-plane", "control-plane-token", "A session: a bearer token, or a cookie as NAME=VALUE"),
    control_plane("checkout-org", "ID", "The organization that a test checkout is for"),
    control_plane("checkout-plan", "NAME", "The plan that a test checkout is for"),
];

macro_rules! vendors {
    ($($function:ident $vendor:literal),*) => {
        $(const fn $function(name: &'static str, value_name: &'static str, help: &'static str) -> Definition {
            Definition { group: Some($vendor), ..Definition::new(name, Kind::One, value_name, help) }
        })*
    };
}
vendors!(
    fly "fly", github "github", neon "neon", resend "resend", stripe "stripe", upstash "upstash",
    control_plane "control-plane"
);

const fn token(vendor: &'static str, name: &'static str, help: &'static str) -> Definition {
    Definition { group: Some(vendor), ..Definition::new(name, Kind::Secret, "SECRET", help) }
}
