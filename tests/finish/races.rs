//! Two operators at once, and a run that was prepared before the key went.

use std::sync::Arc;

use reseal::{
    envelope::Format,
    rekey::{self, Intent, OldKey, RekeyError, RetireError},
    store::{FenceMode, StoreError},
};

use crate::rekey::stage::{OLD, Stage, Under, try_run_job};

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_retire_at_once_one_does() {
    let stage = Stage::new("finish_race", 60).await;
    let old = stage.static_key("old", &OLD);
    let keyring = stage.keyring("keyring");
    let new = format!("local-kms:{}", keyring.display());
    let choice = stage.choice(Format::V3, &[&old], &new);
    stage.run(&choice).await;
    let rule =
        rekey::fence_rule(stage.store.as_ref(), "org_instances", Format::V3, &choice.new).await.unwrap();
    stage.store.raise_fence(&stage.target().await, FenceMode::Enforce, rule).await.unwrap();
    assert!(stage.verify(&choice).await.passed());
    // Prepared while the key was good, to go back to it.
    let back = stage.job(&stage.choice(Format::V1, &[&new], &old), Intent::Run).await;

    let job = Arc::new(stage.job(&choice, Intent::Verify).await);
    let key = OldKey::load(&old.parse().unwrap()).await.unwrap();
    let attempts = (0..4).map(|_| rekey::retire(&job, &key, &[]));
    let ended = futures_util::future::join_all(attempts).await;
    assert_eq!(ended.iter().filter(|ended| ended.is_ok()).count(), 1, "{ended:?}");
    for lost in ended.into_iter().filter_map(Result::err) {
        let RetireError::Rekey(RekeyError::Refused { what, .. }) = lost else { panic!("{lost:?}") };
        assert!(what.contains("was retired already"), "{what}");
    }
    assert_eq!(stage.number("SELECT count(*) FROM reseal_audit WHERE action = 'key-retired'").await, 1);
    stage.store.lower_fence("org_instances").await.unwrap();
    let runs = stage.number("SELECT count(*) FROM reseal_runs").await;
    match try_run_job(back).await {
        Err(RekeyError::Store(StoreError::Retired { key: retired })) => assert_eq!(retired, key.name()),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.number("SELECT count(*) FROM reseal_runs").await, runs, "the run was not opened");
    assert_eq!(stage.differences(Under::Bound(&keyring)).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_changes_while_the_preconditions_are_looked_at_is_seen() {
    let stage = Stage::new("finish_head", 20).await;
    let old = stage.static_key("old", &OLD);
    let new = format!("local-kms:{}", stage.keyring("keyring").display());
    stage.run(&stage.choice(Format::V2, &[&old], &new)).await;
    let head = stage.store.audit_head().await.unwrap();
    let attempt = |head| {
        let store = Arc::clone(&stage.store);
        async move {
            let detail = serde_json::json!({});
            let new =
                reseal::store::NewRetirement { key: "static:x", data_key: None, certificate: "{}", detail };
            store.retire(&new, head).await.unwrap()
        }
    };
    // Any change of state moves the head, and the decision was made on what was before.
    stage.run(&stage.choice(Format::V2, &[&old], &new)).await;
    assert!(!attempt(head).await);
    assert!(stage.store.retirements().await.unwrap().is_empty());
    let head = stage.store.audit_head().await.unwrap();
    assert!(attempt(head).await);
    for statement in ["DELETE FROM reseal_retirements", "TRUNCATE reseal_retirements"] {
        let refused = sqlx::query(statement).execute(&stage.on.pool).await.unwrap_err().to_string();
        assert!(refused.contains("never deleted"), "{refused}");
    }
}
