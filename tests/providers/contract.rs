//! Clients and stand-ins against the vendors' own specifications.
//!
//! Happy roads only, as prism needs an answer that a specification has. Without the specifications each says that it
//! skips.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use reseal::providers::{
    Issuer, Life, Location, Patience, Probe,
    fly::{AppSecret, Created, Creation, DOCUMENTS, Deploy, Fly, TokenProbe, TokenProfile, Tokens},
    github::{ActionsSecret, Conclusion, GitHub, RunState, Workflow},
    http::Manner,
};
use serde_json::{Value, json};

use super::at_hand::{manner, secret};
use crate::support::{
    prism::{self, Prism},
    vendors::{fly, github},
};

/// Prism takes its time.
fn patient() -> Manner {
    Manner { timeout: Duration::from_secs(30), ..manner() }
}

const PATIENCE: Patience = Patience { every: Duration::from_millis(10), at_most: Duration::from_secs(30) };

#[tokio::test]
async fn prism_sees_what_is_wrong_on_either_side() {
    let stand_in = fly::Fly::start();
    let Some(prism) = Prism::before("fly-machines-2026-05.json", stand_in.vendor.url()) else { return };
    let url = format!("{}/apps/a/secrets", prism.url());
    let reply = reqwest::Client::new().post(url).json(&json!({ "values": { "A": 5 } })).send().await.unwrap();
    assert_eq!(reply.status(), 422);
    let bad = axum::Router::new().fallback(async || axum::Json(json!([{ "id": 5 }])));
    let vendor = crate::support::vendors::Vendor::serve(bad);
    let reversed = Prism::before("fly-machines-2026-05.json", vendor.url()).unwrap();
    let reply = reqwest::get(format!("{}/apps/a/machines", reversed.url())).await.unwrap();
    assert_eq!(reply.status(), 500);
    let both = PATIENCE.until(async || {
        let seen = (prism.violations().len(), reversed.violations().len());
        Ok::<_, ()>((seen == (1, 1)).then_some(()))
    });
    assert_eq!(both.await, Ok(Some(())));
}

#[tokio::test]
async fn fly_machines() {
    let stand_in = fly::Fly::start();
    let Some(prism) = Prism::before("fly-machines-2026-05.json", stand_in.vendor.url()) else { return };
    let app = "molecule-cp";
    let made = |id, state| fly::Made { id, state };
    stand_in.app(app, &[made("m1", "started"), made("m2", "stopped")]);
    stand_in.boot_slowly(1);
    let client =
        Fly::new(prism.url(), &stand_in.graphql_url(), Arc::new(secret(&stand_in.user_token())), patient())
            .unwrap();

    let location = AppSecret::new(&client, app, "FLY_API_TOKEN");
    location.write(&secret("new")).await.unwrap();
    location.observe().await.unwrap();
    assert_eq!(client.staged(app).await.unwrap(), ["FLY_API_TOKEN"]);
    let mark = "reseal-1-deploy".to_owned();
    Deploy { fly: client.clone(), app: app.to_owned(), mark, patience: PATIENCE }.run().await.unwrap();
    assert!(client.secret_digest(app, "m1", "FLY_API_TOKEN").await.unwrap().is_some());
    location.remove().await.unwrap();

    let config = stand_in.config(app, "m1");
    let creation = Creation { name: "t-acme-g1", region: "ams", config: &config, min_secrets_version: 1 };
    let Created::Made(machine) = client.create_machine(app, &creation).await.unwrap() else { panic!() };
    client.start(app, &machine.id).await.unwrap();
    assert!(client.healthy(app, &machine.id, PATIENCE).await.unwrap());
    client.uncordon(app, &machine.id).await.unwrap();
    client.cordon(app, "m1").await.unwrap();
    assert_eq!(stand_in.routed(app), [&*machine.id]);
    client.stop(app, "m1").await.unwrap();
    assert!(client.stopped(app, "m1", PATIENCE).await.unwrap());
    client.destroy(app, "m1").await.unwrap();

    let probe = TokenProbe::new(&client);
    assert!(matches!(probe.probe(&secret(&stand_in.user_token())).await, Life::Live));
    assert!(matches!(probe.probe(&secret("fm2_wrong")).await, Life::Dead));
    assert!(prism.violations().is_empty(), "{:#?}", prism.violations());
}

#[tokio::test]
async fn github_actions() {
    let stand_in = github::GitHub::start(&["publish.yml"], |_| true);
    let Some(prism) = Prism::before("github-actions-subset.json", stand_in.vendor.url()) else { return };
    let repository = github::REPOSITORY.parse().unwrap();
    let client =
        GitHub::new(prism.url(), Arc::new(secret(&stand_in.token())), repository, patient()).unwrap();
    let location = ActionsSecret::new(&client, "FLY_API_TOKEN");
    for value in ["first", "second"] {
        location.write(&secret(value)).await.unwrap();
        assert_eq!(stand_in.secret("FLY_API_TOKEN").unwrap(), value);
    }
    location.observe().await.unwrap();
    let workflow = Workflow::new(&client, "publish.yml");
    assert!(workflow.exists().await.unwrap());
    let dispatched = workflow.dispatch("main").await.unwrap();
    let run = workflow.find(dispatched.asked_at).await.unwrap();
    assert_eq!(run, dispatched.run_id);
    workflow.underway().await.unwrap();
    while workflow.state(run.unwrap()).await.unwrap() == RunState::Underway {}
    assert_eq!(workflow.state(run.unwrap()).await.unwrap(), RunState::Ended(Conclusion::Success));
    location.remove().await.unwrap();
    assert!(prism.violations().is_empty(), "{:#?}", prism.violations());
}

/// What `graphql` finds wrong with documents and replies.
fn complaints(cases: &[Value]) -> Option<String> {
    let schema = prism::spec("fly-graphql-schema.graphql")?;
    let mut node = Command::new("node")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/graphql.cjs"))
        .arg(schema)
        .env("NODE_PATH", prism::tools().join("node_modules"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    node.stdin.take().unwrap().write_all(Value::from(cases).to_string().as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn fly_graphql() {
    let stand_in = fly::Fly::start();
    stand_in.add_on("tenants");
    let (id, _) = stand_in.token("old", "deploy", json!({ "app_id": "node" }));
    // The client's own roads, for what it makes of the replies.
    let client = Fly::new(
        &stand_in.machines_url(),
        &stand_in.graphql_url(),
        Arc::new(secret(&stand_in.user_token())),
        manner(),
    )
    .unwrap();
    let tokens = Tokens::new(&client, fly::ORG, Some(id.clone()), TokenProfile::organization());
    tokens.may_mint().await.unwrap();
    let minted = tokens.mint("reseal-1-mint").await.unwrap();
    tokens.revoke(&id).await.unwrap();

    let input = json!({
        "name": "reseal-2-mint", "organizationId": "org_node", "profile": "deploy", "profileParams": { "app_id": "node" },
        "expiry": "1440h",
    });
    let variables = json!({
        "slug": fly::ORG, "first": 2, "after": null, "input": input, "id": minted.id, "name": "tenants",
    });
    let mut cases = Vec::new();
    for document in DOCUMENTS {
        let request = reqwest::Client::new().post(stand_in.graphql_url()).bearer_auth(stand_in.user_token());
        let reply = request.json(&json!({ "query": document, "variables": variables })).send().await.unwrap();
        let data = reply.json::<Value>().await.unwrap()["data"].take();
        assert!(data.is_object(), "{document}");
        cases.push(json!({ "document": document, "variables": variables, "data": data }));
    }
    let Some(found) = complaints(&cases) else { return };
    assert_eq!(found, "");
    let wrong = [
        json!({ "document": "query Field { viewer { nothing } }", "variables": {}, "data": {} }),
        json!({
            "document": "query Kind { organization(slug: \"a\") { id } }", "variables": {},
            "data": { "organization": { "id": null } },
        }),
        json!({
            "document": "query More { organization(slug: \"a\") { id } }", "variables": {},
            "data": { "organization": { "id": "1", "name": "unasked" } },
        }),
    ];
    let found = complaints(&wrong).unwrap();
    assert!(["Field: ", "Kind: ", "More: "].iter().all(|name| found.contains(name)), "{found}");
}
