//! Branches are forked once, with what is on them, and deleted; computes let in whom they should; changes of a project
//! queue.

use std::{collections::BTreeMap, num::NonZero, sync::Mutex, time::Duration};

use reseal::providers::{
    Issuer, Life, Outcome, Patience, Probe, ProviderError,
    http::Manner,
    login::{PostgresLogin, TenantDatabase},
    neon::{Branch, Fork, Neon, RolePassword, Route},
};
use tokio::sync::oneshot;

use super::{
    super::at_hand::{PATIENCE, assert_dead, assert_live, manner, secret, unknown},
    client, owner,
};
use crate::support::vendors::{
    Fault, Rule,
    neon::{BRANCH, DATABASE, Neon as StandIn, PROJECT, ROLE, Tenant},
};

const TIMEOUT: Duration = Duration::from_secs(10);

fn fork_of(tenant: &Tenant) -> Fork<'_> {
    let annotations = BTreeMap::from([("reseal_run".to_owned(), "1".to_owned())]);
    Fork { name: "t-acme-g2", parent: Some(&tenant.branch), annotations }
}

async fn fork(neon: &StandIn, fork: &Fork<'_>) -> Result<Branch, ProviderError> {
    client(neon).fork(PROJECT, fork, PATIENCE).await
}

fn password(neon: &Neon, branch: &str) -> RolePassword {
    RolePassword {
        neon: neon.clone(),
        project: PROJECT.to_owned(),
        branch: branch.to_owned(),
        role: ROLE.to_owned(),
        database: DATABASE.to_owned(),
        endpoint: None,
        route: Route::Direct,
        patience: PATIENCE,
    }
}

async fn probe(url: &str) -> Life {
    PostgresLogin::new(TIMEOUT).probe(&secret(url)).await
}

#[tokio::test]
async fn every_page_of_the_branches_is_read() {
    let neon = StandIn::start();
    let tenants = ["t-0", "t-1", "t-2", "t-3"].map(|name| neon.tenant(PROJECT, name));
    neon.set(|knobs| knobs.page = 2);
    let all = client(&neon).branches(PROJECT).await.unwrap();
    assert_eq!(all.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["main", "t-0", "t-1", "t-2", "t-3"]);
    neon.protect(&tenants[3].branch);
    let branch = client(&neon).branch(PROJECT, &tenants[3].branch).await.unwrap();
    assert_eq!((&*branch.name, branch.parent_id.as_deref()), ("t-3", Some(BRANCH)));
    assert!(branch.protected && !branch.default && branch.annotations.is_empty());
    let main = client(&neon).default_branch(PROJECT).await.unwrap();
    assert!(main.id == BRANCH && main.default && main.parent_id.is_none());
    let databases = client(&neon).databases(PROJECT, &branch.id).await.unwrap();
    assert_eq!(
        databases.iter().map(|one| (&*one.name, &*one.owner_name)).collect::<Vec<_>>(),
        [(DATABASE, ROLE)]
    );

    assert!(client(&neon).branch(PROJECT, "br-none").await.unwrap_err().is_missing());
    assert!(client(&neon).databases(PROJECT, "br-none").await.unwrap_err().is_missing());
    assert!(client(&neon).branches("no-such-project").await.unwrap_err().is_missing());
}

#[tokio::test]
async fn a_fork_has_its_parents_data_and_can_be_used() {
    let neon = StandIn::with_computes();
    let tenant = neon.tenant(PROJECT, "acme");
    neon.write(BRANCH, "of the template");
    neon.write(&tenant.branch, "of the tenant");
    neon.set(|knobs| knobs.operation_time = Duration::from_millis(60));
    let wanted = fork_of(&tenant);
    let made = fork(&neon, &wanted).await.unwrap();
    assert_eq!((&*made.name, made.parent_id.as_deref()), ("t-acme-g2", Some(&*tenant.branch)));
    assert_eq!(made.annotations, wanted.annotations);
    assert_eq!(neon.data(&made.id), ["of the tenant"]);
    neon.write(&tenant.branch, "later");
    assert_eq!(neon.data(&made.id), ["of the tenant"]);

    let inherited = password(&client(&neon), &made.id).read().await.unwrap().unwrap();
    assert_ne!(inherited.expose(), tenant.url);
    assert!(inherited.expose().starts_with(tenant.url.split('@').next().unwrap()), "the same password");
    assert_live(&probe(inherited.expose()).await);
    assert!(neon.accepts(inherited.expose()));

    assert_eq!(fork(&neon, &wanted).await.unwrap(), made);
    assert_eq!(neon.vendor.count("POST", "/branches"), 1, "what is there is not made again");
    let fresh = Fork { name: "t-acme-g3", parent: None, ..wanted };
    let fresh = fork(&neon, &fresh).await.unwrap();
    assert_eq!(
        (fresh.parent_id.as_deref(), neon.data(&fresh.id)),
        (Some(BRANCH), vec!["of the template".to_owned()])
    );
}

#[tokio::test]
async fn a_protected_branch_keeps_its_passwords_from_its_children() {
    let neon = StandIn::with_computes();
    let tenant = neon.tenant(PROJECT, "acme");
    neon.protect(&tenant.branch);
    let made = fork(&neon, &fork_of(&tenant)).await.unwrap();
    let url = password(&client(&neon), &made.id).read().await.unwrap().unwrap();
    assert!(!url.expose().starts_with(tenant.url.split('@').next().unwrap()));
    assert_live(&probe(url.expose()).await);
}

#[tokio::test]
async fn a_fork_that_a_lost_request_made_is_found_by_its_name() {
    for (fault, posts) in [(Fault::LoseReply, 1), (Fault::LoseRequest, 2)] {
        let neon = StandIn::start();
        let tenant = neon.tenant(PROJECT, "acme");
        neon.set(|knobs| knobs.operation_time = Duration::from_millis(40));
        neon.vendor.fault(Rule::next("POST", "/branches", fault));
        let error = fork(&neon, &fork_of(&tenant)).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown);
        assert_eq!(neon.vendor.count("POST", "/branches"), 1, "it is not sent again by itself");
        fork(&neon, &fork_of(&tenant)).await.unwrap();
        assert_eq!(neon.vendor.count("POST", "/branches"), posts);
        assert_eq!(neon.branches(PROJECT), ["main", "acme", "t-acme-g2"]);
    }
    let neon = StandIn::start();
    let tenant = neon.tenant(PROJECT, "acme");
    neon.vendor.fault(Rule::next("POST", "/branches", Fault::Twice));
    fork(&neon, &fork_of(&tenant)).await.unwrap();
    assert_eq!(neon.branches(PROJECT), ["main", "acme", "t-acme-g2"]);
}

#[tokio::test]
async fn a_list_that_lies_makes_no_second_fork() {
    let knobs: [fn(&StandIn, usize); 2] = [
        |neon, count| neon.set(|knobs| knobs.stale_branches = count),
        |neon, count| neon.set(|knobs| knobs.empty_branches = count),
    ];
    for lie in knobs {
        let neon = StandIn::start();
        let tenant = neon.tenant(PROJECT, "acme");
        let made = fork(&neon, &fork_of(&tenant)).await.unwrap();
        lie(&neon, 4);
        assert_eq!(fork(&neon, &fork_of(&tenant)).await.unwrap(), made);
        lie(&neon, usize::MAX);
        let brief = Patience { at_most: Duration::from_millis(20), ..PATIENCE };
        let error = client(&neon).fork(PROJECT, &fork_of(&tenant), brief).await.unwrap_err();
        assert_eq!(error.to_string(), "neon refused fork a branch: 409");
        lie(&neon, 0);
        assert_eq!(neon.branches(PROJECT), ["main", "acme", "t-acme-g2"]);
    }
}

#[tokio::test]
async fn anothers_branch_of_the_name_is_not_taken_over() {
    let neon = StandIn::start();
    let (tenant, other) = (neon.tenant(PROJECT, "acme"), neon.tenant(PROJECT, "other"));
    let wanted = fork_of(&tenant);
    fork(&neon, &wanted).await.unwrap();
    let later = BTreeMap::from([("reseal_run".to_owned(), "2".to_owned())]);
    for wrong in [
        Fork { parent: Some(&other.branch), ..wanted.clone() },
        Fork { parent: None, ..wanted.clone() },
        Fork { annotations: later, ..wanted },
    ] {
        let error = fork(&neon, &wrong).await.unwrap_err().to_string();
        let wanted = "neon was not asked to fork a branch: a branch of this name is there, with another parent or \
                      other annotations";
        assert_eq!(error, wanted);
    }
    // A name that contains the name is another's too.
    fork(&neon, &Fork { name: "t-acme-g", ..fork_of(&tenant) }).await.unwrap();
    assert_eq!(neon.vendor.count("POST", "/branches"), 2);
}

#[tokio::test]
async fn a_fork_that_fails_is_not_taken_for_done() {
    let neon = StandIn::start();
    let tenant = neon.tenant(PROJECT, "acme");
    neon.set(|knobs| knobs.failing_operations = 1);
    let error = fork(&neon, &fork_of(&tenant)).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert!(error.to_string().contains("(create_branch) is failed)"), "{error}");
    let gone = Fork { parent: Some("br-none"), ..fork_of(&tenant) };
    let error = fork(&neon, &Fork { name: "t-acme-g3", ..gone }).await.unwrap_err();
    assert!(error.is_missing() && error.outcome() == Outcome::NotDone);
}

#[tokio::test]
async fn a_branch_is_deleted_when_nothing_needs_it() {
    let neon = StandIn::with_computes();
    let (tenant, kept) = (neon.tenant(PROJECT, "acme"), neon.tenant(PROJECT, "kept"));
    let child = fork(&neon, &fork_of(&tenant)).await.unwrap();
    neon.protect(&kept.branch);
    let delete = async |id: &str| client(&neon).delete_branch(PROJECT, id, PATIENCE).await;
    for id in [&tenant.branch, &kept.branch, BRANCH] {
        assert_eq!(delete(id).await.unwrap_err().to_string(), "neon refused delete a branch: 422");
    }
    assert_eq!(neon.branches(PROJECT).len(), 4);

    neon.set(|knobs| knobs.operation_time = Duration::from_millis(60));
    neon.vendor.fault(Rule::next("DELETE", &child.id, Fault::LoseReply));
    for _ in 0..2 {
        delete(&child.id).await.unwrap();
        assert_eq!(neon.branches(PROJECT), ["main", "acme", "kept"]);
    }
    assert!(neon.accepts(&tenant.url));
    delete(&tenant.branch).await.unwrap();
    assert!(!neon.accepts(&tenant.url) && neon.accepts(&kept.url));
    let error = unknown(&probe(&tenant.url).await);
    assert_eq!(error, "postgres refused log in: 404 (XX000)");
}

#[tokio::test]
async fn nobody_logs_in_at_an_endpoint_that_is_deleted() {
    let neon = StandIn::with_computes();
    let tenant = neon.tenant(PROJECT, "acme");
    assert_live(&probe(&tenant.url).await);
    let [endpoint] = &client(&neon).endpoints(PROJECT, &tenant.branch).await.unwrap()[..] else {
        panic!("one")
    };
    neon.set(|knobs| knobs.operation_time = Duration::from_millis(60));
    neon.vendor.fault(Rule::next("DELETE", "/endpoints", Fault::LoseReply));
    for _ in 0..2 {
        client(&neon).delete_endpoint(PROJECT, &endpoint.id, PATIENCE).await.unwrap();
        assert_eq!(unknown(&probe(&tenant.url).await), "postgres refused log in: 404 (XX000)");
    }
    assert_eq!(client(&neon).endpoints(PROJECT, &tenant.branch).await.unwrap(), []);
    assert!(password(&client(&neon), &tenant.branch).read().await.unwrap_err().is_missing());
    assert_eq!(neon.branches(PROJECT), ["main", "acme"]);
}

#[tokio::test]
async fn a_compute_lets_in_whoever_has_the_password() {
    let neon = StandIn::with_computes();
    let (tenant, other) = (neon.tenant(PROJECT, "acme"), neon.tenant(PROJECT, "other"));
    let by_sql = neon.sql_role(&tenant.branch, "back\"door");
    let door = tenant.url.replacen(&tenant.role, "back%22door", 1);
    let door = door.replacen(tenant.url.split([':', '@']).nth(2).unwrap(), &by_sql, 1);
    let (old, door) = (secret(&tenant.url), secret(&door));
    for url in [&old, &door] {
        assert_live(&probe(url.expose()).await);
    }
    let database = TenantDatabase::new(TIMEOUT);
    assert_eq!(database.sessions(&old).await.unwrap(), 0);
    neon.sessions(&tenant.branch, 3);
    assert_eq!(database.sessions(&old).await.unwrap(), 3);
    assert_eq!(database.login_roles(&old).await.unwrap(), ["back\"door", ROLE]);
    let known = client(&neon).roles(PROJECT, &tenant.branch).await.unwrap();
    assert_eq!(known.iter().map(|role| &*role.name).collect::<Vec<_>>(), [ROLE]);
    for _ in 0..2 {
        database.forbid_login(&old, "back\"door").await.unwrap();
    }
    assert_dead(&probe(door.expose()).await);
    assert_eq!(database.login_roles(&old).await.unwrap(), [ROLE]);
    database.forbid_login(&old, "nobody").await.expect("one that is gone is done");

    let new = password(&client(&neon), &tenant.branch).mint("unused").await.unwrap();
    assert_live(&probe(new.value.expose()).await);
    assert_dead(&probe(&tenant.url).await);
    assert!(neon.accepts(new.value.expose()) && !neon.accepts(&tenant.url) && neon.accepts(&other.url));
    let error = database.sessions(&old).await.unwrap_err();
    let wanted = "postgres does not let this credential count the sessions of a database: 401 (28P01)";
    assert_eq!(error.to_string(), wanted);
    assert_eq!(tenant.database, DATABASE);
}

#[tokio::test]
async fn whether_a_key_may_change_is_known_without_a_change() {
    let neon = StandIn::start();
    let tenant = neon.tenant(PROJECT, "acme");
    let reading = client(&neon).with_token(secret(&neon.reading_token()));
    assert_eq!(reading.branches(PROJECT).await.unwrap().len(), 2);
    let error = reading.may_change(PROJECT, &tenant.branch).await.unwrap_err();
    assert_eq!(error.to_string(), "neon does not let this credential reset the password of a role: 403");
    client(&neon).may_change(PROJECT, &tenant.branch).await.unwrap();
    assert!(client(&neon).may_change(PROJECT, "br-none").await.unwrap_err().is_missing());
    assert!(neon.accepts(&tenant.url));
    let error = reading.delete_branch(PROJECT, &tenant.branch, PATIENCE).await.unwrap_err();
    assert!(matches!(error, ProviderError::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn changes_of_one_project_queue() {
    let neon = StandIn::start();
    neon.set(|knobs| knobs.operation_time = Duration::from_millis(30));
    let shared = client(&neon);
    let tenants: Vec<_> = (0..6).map(|at| neon.tenant(PROJECT, &format!("t-{at}"))).collect();
    let resets = tenants.iter().map(|tenant| {
        let password = password(&shared.with_token(secret(neon.token())), &tenant.branch);
        tokio::spawn(async move { password.mint("unused").await })
    });
    for reset in resets.collect::<Vec<_>>() {
        assert!(neon.accepts(reset.await.unwrap().unwrap().value.expose()));
    }
    assert!(neon.vendor.seen().iter().all(|seen| seen.status == 200), "no change met another");
    // What is finished is not asked about again, nor what comes after what still runs.
    let polls = neon.vendor.seen().iter().filter(|seen| seen.path.contains("/operations/")).count();
    neon.set(|knobs| knobs.operation_time = Duration::ZERO);
    password(&shared, &tenants[0].branch).mint("unused").await.unwrap();
    let now = neon.vendor.seen().iter().filter(|seen| seen.path.contains("/operations/")).count();
    assert_eq!(now - polls, 2, "its two operations");
}

#[tokio::test]
async fn projects_do_not_wait_for_each_other() {
    let neon = StandIn::start();
    let (here, there) = (neon.tenant(PROJECT, "acme"), neon.tenant("calm-lake-12345678", "acme"));
    neon.set(|knobs| knobs.operation_time = Duration::from_secs(600));
    let (begun, is_begun) = oneshot::channel();
    let begun = Mutex::new(Some(begun));
    neon.vendor.watch(move |seen| {
        let begun = begun.lock().unwrap().take_if(|_| seen.method == "POST");
        if let Some(begun) = begun {
            begun.send(()).unwrap();
        }
    });
    let shared = client(&neon);
    let stuck = password(&shared, &here.branch);
    let stuck = tokio::spawn(async move { stuck.mint("unused").await });
    is_begun.await.unwrap();

    neon.set(|knobs| knobs.operation_time = Duration::ZERO);
    let other = RolePassword { project: there.project.clone(), ..password(&shared, &there.branch) };
    assert!(neon.accepts(other.mint("unused").await.unwrap().value.expose()));
    let waiting = RolePassword { patience: Patience { at_most: Duration::ZERO, ..PATIENCE }, ..owner(&neon) };
    let waiting = RolePassword { neon: shared.clone(), ..waiting };
    let next = waiting.mint("unused");
    tokio::pin!(next);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut next).await.is_err());
    assert_eq!(neon.vendor.count("POST", "reset_password"), 2, "the next one waits for its turn");

    stuck.abort();
    let error = next.await.unwrap_err();
    assert_eq!(error.to_string(), "neon could not reset the password of a role now: it answered 423");
}

#[tokio::test]
async fn its_rate_limit_is_held_by_us_and_else_obeyed() {
    let neon = StandIn::start();
    let client = |paced, times| {
        let manner = Manner { tries: 1, paced, times: NonZero::new(times).unwrap(), ..manner() };
        Neon::new(neon.vendor.url(), secret(neon.token()), manner).unwrap()
    };
    for (times, calls) in [(1, 44), (3, 132)] {
        neon.limit_rate(f64::from(times));
        let paced = client(true, times);
        for _ in 0..calls {
            paced.branches(PROJECT).await.unwrap();
        }
    }
    neon.limit_rate(1.0);
    let hasty = client(false, 1);
    let mut refused = 0;
    for _ in 0..60 {
        refused += usize::from(matches!(hasty.branches(PROJECT).await, Err(ProviderError::Busy { .. })));
    }
    assert!(refused > 0);
}
