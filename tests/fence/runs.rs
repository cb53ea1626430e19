//! Runs and fences: a run passes its own, and is refused before one that would refuse it.

use std::time::Duration;

use reseal::{
    envelope::{Format, KeyId},
    keyring::{self, kms::local::LocalKms},
    rekey::{self, Intent, Outcome, RekeyError},
    store::{FenceMode, FenceRule},
};

use super::field::{bytes, is_fenced, refusal, v1};
use crate::rekey::stage::{Stage, Under, run_job, try_run_job};

/// A data key for the stage's table, active under `keyring`.
async fn active_key<D: crate::rekey::stage::Database>(stage: &Stage<D>, keyring: &std::path::Path) -> KeyId {
    let kms = LocalKms::open(keyring).unwrap();
    let (row, key) = keyring::generate(&kms, "org_instances").await.unwrap();
    stage.store.add_data_key(&row).await.unwrap();
    key.key_id()
}

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_run_passes_its_own_fence_while_a_stale_writer_is_refused() {
    for format in [Format::V3, Format::V2] {
        let stage = Stage::new("fenced_run", 3000).await;
        let (old, keyring) = (stage.old(), stage.keyring("keyring"));
        let new = format!("local-kms:{}", keyring.display());
        let key_id = active_key(&stage, &keyring).await;
        let rule = rekey::fence_rule(stage.store.as_ref(), "org_instances", format, &new.parse().unwrap())
            .await
            .unwrap();
        assert_eq!(rule, if format == Format::V3 { FenceRule::Bound(key_id) } else { FenceRule::Wrapped });
        let target = stage.target().await;
        rekey::raise_fence(stage.store.as_ref(), &target, FenceMode::Enforce, rule, PATIENCE, |_| {})
            .await
            .unwrap();
        let target = stage.target().await;
        assert!(!target.has_triggers, "our own triggers are no reason to read each row again");

        let choice = stage.choice(format, &[&old], &new);
        let run = tokio::spawn(run_job(stage.job_of(target, &choice, Intent::Run).await));
        let mut refused = 0;
        while !run.is_finished() || refused == 0 {
            let sql = format!(
                "UPDATE org_instances SET database_url_encrypted = {} WHERE org_id::text < '2'",
                bytes(&v1(9))
            );
            let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&stage.on.pool).await;
            match refusal(done) {
                // A deadlock with the run's batch is the writer's own affair; the run tries again.
                Err(refusal) if refusal.code == "40P01" => {}
                done => {
                    is_fenced(done);
                    refused += 1;
                }
            }
        }
        let report = run.await.unwrap();
        assert_eq!((report.outcome, report.tally.rekeyed), (Outcome::Complete, stage.cells().1));
        let under = if format == Format::V3 { Under::Bound(&keyring) } else { Under::Wrapped(&keyring) };
        assert_eq!(stage.differences(under).await, [""; 0]);
        assert!(stage.verify(&choice).await.passed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_its_fence_would_refuse_is_refused_before_it_writes() {
    let stage = Stage::new("fenced_off", 300).await;
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let new = format!("local-kms:{}", keyring.display());
    active_key(&stage, &keyring).await;
    let spec = new.parse().unwrap();
    let rule = rekey::fence_rule(stage.store.as_ref(), "org_instances", Format::V3, &spec).await.unwrap();
    let target = stage.target().await;
    rekey::raise_fence(stage.store.as_ref(), &target, FenceMode::Enforce, rule, PATIENCE, |_| {})
        .await
        .unwrap();
    let back = stage.static_key("other", &[0x33; 32]);
    let mut forced = stage.choice(Format::V3, &[&old], &new);
    forced.new_data_key = true;
    for choice in [stage.choice(Format::V1, &[&old], &back), stage.choice(Format::V2, &[&old], &new), forced]
    {
        let error = try_run_job(stage.job(&choice, Intent::Run).await).await.unwrap_err();
        let RekeyError::Refused { what, hint } = error else { panic!("{error}") };
        assert!(what.contains("the fence of org_instances takes only v3 under data-key:"), "{what}");
        assert_eq!(hint, "reseal fence off");
    }
    assert!(stage.store.latest_run("org_instances").await.unwrap().is_none(), "there was no run");
    assert_eq!(stage.store.data_keys(None).await.unwrap().len(), 1);

    // An observing fence is in nobody's way, and tells.
    rekey::raise_fence(stage.store.as_ref(), &target, FenceMode::Observe, rule, PATIENCE, |_| {})
        .await
        .unwrap();
    let report = stage.run(&stage.choice(Format::V2, &[&old], &new)).await;
    assert_eq!(report.outcome, Outcome::Complete);
    let told = stage.store.stale_writes("org_instances", 10).await.unwrap();
    assert_eq!(told.iter().map(|writer| writer.count).sum::<i64>(), stage.cells().1);
    assert!(told.iter().all(|writer| writer.wrote == "v2"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_would_stop_an_open_run_is_refused() {
    let mut stage = Stage::new("fence_open_run", 300).await;
    stage.options.rows_limit = Some(100);
    stage.options.workers = 1;
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let new = format!("local-kms:{}", keyring.display());
    let key_id = active_key(&stage, &keyring).await;
    let report = stage.run(&stage.choice(Format::V2, &[&old], &new)).await;
    assert_eq!(report.outcome, Outcome::Interrupted);
    let target = stage.target().await;
    let raise = async |mode, rule| {
        rekey::raise_fence(stage.store.as_ref(), &target, mode, rule, PATIENCE, |_| {}).await
    };
    let error = raise(FenceMode::Enforce, FenceRule::Bound(key_id)).await.unwrap_err();
    assert!(
        matches!(&error, RekeyError::Refused { what, .. } if what.contains("is open to another key")),
        "{error}"
    );
    assert_eq!(stage.store.fence("org_instances").await.unwrap(), None);
    raise(FenceMode::Observe, FenceRule::Bound(key_id)).await.unwrap();
    raise(FenceMode::Enforce, FenceRule::Wrapped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_no_value_shows_has_no_fence() {
    let stage = Stage::new("fence_keys", 10).await;
    let keyring = stage.keyring("keyring");
    let new = format!("local-kms:{}", keyring.display());
    let key_id = active_key(&stage, &stage.keyring("another")).await;
    let rule = async |format, new: &str| {
        rekey::fence_rule(stage.store.as_ref(), "org_instances", format, &new.parse().unwrap()).await
    };
    for (format, new, expected) in [
        (Format::V1, stage.old(), "nothing in a v1 value says which key it is under"),
        (Format::V1, new.clone(), "nothing in a v1 value says which key it is under"),
        (Format::V2, stage.old(), "format v2 can't be written under the key given as --new"),
        (Format::V3, stage.old(), "format v3 can't be written under the key given as --new"),
        (Format::V3, new.clone(), "has no active data key under"),
        (Format::V3, format!("data-key:{}", hex::encode([9; 16])), "is not one of org_instances's"),
    ] {
        let error = rule(format, &new).await.unwrap_err();
        assert!(matches!(&error, RekeyError::Refused { what, .. } if what.contains(expected)), "{error}");
    }
    assert_eq!(rule(Format::V3, &format!("data-key:{key_id}")).await.unwrap(), FenceRule::Bound(key_id));
    // Of another table it says nothing.
    let spec = format!("data-key:{key_id}").parse().unwrap();
    rekey::fence_rule(stage.store.as_ref(), "others", Format::V3, &spec).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_on_sqlite_passes_its_own_fence() {
    for format in [Format::V3, Format::V2] {
        let stage = Stage::on_sqlite(500).await;
        let (old, keyring) = (stage.old(), stage.keyring("keyring"));
        let new = format!("local-kms:{}", keyring.display());
        active_key(&stage, &keyring).await;
        let spec = new.parse().unwrap();
        let rule = rekey::fence_rule(stage.store.as_ref(), "org_instances", format, &spec).await.unwrap();
        let target = stage.target().await;
        rekey::raise_fence(stage.store.as_ref(), &target, FenceMode::Enforce, rule, PATIENCE, |_| {})
            .await
            .unwrap();
        assert!(!stage.target().await.has_triggers);
        let choice = stage.choice(format, &[&old], &new);
        let report = stage.run(&choice).await;
        assert_eq!((report.outcome, report.tally.rekeyed), (Outcome::Complete, stage.cells().1));
        let under = if format == Format::V3 { Under::Bound(&keyring) } else { Under::Wrapped(&keyring) };
        assert_eq!(stage.differences(under).await, [""; 0]);
        let back = stage.choice(Format::V1, &[&new], &old);
        let error = try_run_job(stage.job(&back, Intent::Run).await).await.unwrap_err();
        assert!(matches!(&error, RekeyError::Refused { hint, .. } if hint == "reseal fence off"), "{error}");
        rekey::lower_fence(stage.store.as_ref(), "org_instances", PATIENCE, |_| {}).await.unwrap().unwrap();
        assert_eq!(stage.run(&back).await.outcome, Outcome::Complete);
    }
}
