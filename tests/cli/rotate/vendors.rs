//! Every vendor is reached where the settings say, with the credential that is set for it.

use std::sync::Arc;

use serde_json::json;

use super::desk::{APP, Desk};
use crate::support::vendors::{
    github::{GitHub, REPOSITORY},
    neon::Neon,
    upstash::{EMAIL, Upstash},
};

const WORKFLOW: &str = "publish-platform-image.yml";

/// A desk whose control plane has a token of Fly's, which GitHub has too.
pub(super) struct Published {
    pub(super) desk: Desk,
    pub(super) github: GitHub,
    /// The token's id and value.
    pub(super) id: String,
    pub(super) old: String,
    /// reseal's own for GitHub.
    pub(super) token: String,
}

impl Published {
    pub(super) fn new() -> Self {
        let mut desk = Desk::new();
        let (id, old) = desk.fly.token(APP, "deploy_organization", json!({}));
        desk.operator.guard(&old);
        desk.fly.set(APP, "FLY_API_TOKEN", &old);
        let judge = Arc::clone(&desk.fly);
        let github = GitHub::start(&[WORKFLOW], move |secrets| judge.is_live(&secrets["FLY_API_TOKEN"]));
        github.set("FLY_API_TOKEN", &old);
        let token = github.token();
        desk.operator.guard(&token);
        desk.operator.file("github-token", &format!("{token}\n"), 0o600);
        let settings = format!(
            "[providers.github]\nurl = \"{}\"\ntoken = \"file:github-token\"\nrepo = \"{REPOSITORY}\"\nworkflow = \"{WORKFLOW}\"\n",
            github.vendor.url()
        );
        desk.operator.file("reseal.toml", &settings, 0o644);
        Self { desk, github, id, old, token }
    }
}

#[test]
fn the_token_in_two_places_is_rotated_in_both() {
    let Published { desk, github, id, old, token } = Published::new();
    let adopted = desk.type_(&["rotate", "adopt", "FLY_API_TOKEN", "--id", &id, "--from-machine"]).exits(0);
    let words = adopted.hints()[0].to_owned() + " --yes";
    let done = desk.operator.type_line(&words).exits(0);
    assert!(done.out.contains("the old one: seen to be refused"), "{}", done.out);
    let new = desk.in_use("FLY_API_TOKEN");
    assert!(new != old && !done.out.contains(&new) && !done.err.contains(&new));
    assert_eq!(github.secret("FLY_API_TOKEN"), Some(new.clone()));
    assert!(desk.fly.is_live(&new) && !desk.fly.is_live(&old));
    let at = |step: &str| done.err.find(&format!("] {step} done")).unwrap_or_else(|| panic!("{}", done.err));
    assert!(at("write-fly") < at("write-github") && at("write-github") < at("revoke"));
    desk.holds_none_of(&[&new, &old, &token]);
}

#[test]
fn databases_and_their_keys_are_found_where_they_are() {
    let mut desk = Desk::new();
    let (neon, upstash) = (Neon::start(), Upstash::start());
    let (database, _) = upstash.live()[0].clone();
    for (name, value) in [
        ("RESEAL_NEON_URL", neon.vendor.url()),
        ("RESEAL_NEON_TOKEN", neon.token()),
        ("RESEAL_UPSTASH_URL", upstash.vendor.url()),
        ("RESEAL_UPSTASH_EMAIL", EMAIL),
        ("RESEAL_UPSTASH_TOKEN", upstash.token()),
        ("RESEAL_UPSTASH_DATABASE", &database),
    ] {
        desk.operator.set(name, value);
    }
    [neon.token(), upstash.token()].into_iter().for_each(|token| desk.operator.guard(token));
    desk.operator.file("neon", neon.token(), 0o600);
    let (key, _) = neon.live()[0].clone();
    desk.type_(&["rotate", "adopt", "NEON_API_KEY", "--id", &key, "--value-file", "neon"]).exits(0);
    let own = desk.type_(&["rotate", "NEON_API_KEY", "--yes"]).exits(4);
    assert!(own.err.contains("RESEAL_NEON_TOKEN holds the very value"), "{}", own.err);
    desk.type_(&["rotate", "adopt", "TENANT_REDIS_URL", "--id", &format!("database:{database}")]).exits(0);

    desk.operator.set("RESEAL_NEON_URL", "http://neon.example");
    let clear = desk.type_(&["rotate", "NEON_API_KEY", "--yes"]).exits(2);
    assert!(clear.err.starts_with("error: RESEAL_NEON_URL: the neon URL is not https"), "{}", clear.err);
    desk.operator.set("RESEAL_NEON_URL", neon.vendor.url());
    desk.operator.set("RESEAL_NEON_TOKEN", "napi_one\nnapi_two");
    let two = desk.type_(&["rotate", "NEON_API_KEY", "--yes"]).exits(2);
    assert!(two.err.contains("RESEAL_NEON_TOKEN holds no token, or one with a line break"), "{}", two.err);
}
