//! Trouble with the KMS or the database is no verdict on data: a run stops, loses nothing, and goes on.

use std::{sync::Arc, time::Duration};

use aws_config::{retry::RetryConfig, timeout::TimeoutConfig};
use reseal::{
    envelope::{Format, v1::StaticCipher},
    keyring::{
        Opener, Sealer,
        kms::{Kms, aws::AwsKms},
    },
    rekey::{DataKeyScope, Intent, Job, Outcome, RekeyError, RunKeys, RunKind},
    secret::StaticKey,
};

use super::stage::{OLD, Stage, Under, run_job, try_run_job};
use crate::support::{
    fault_proxy::{Fault, FaultProxy, Rule},
    moto::{self, Moto},
    oracle,
    postgres::TempPostgres,
    tenants::COLUMNS,
};

/// A key as it is seen through the proxy, with few and quick retries.
async fn key(proxy: &FaultProxy, arn: &str) -> Arc<dyn Kms> {
    let config = moto::settings(&proxy.url())
        .retry_config(
            RetryConfig::standard().with_max_attempts(2).with_initial_backoff(Duration::from_millis(10)),
        )
        .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(2)).build())
        .load()
        .await;
    Arc::new(AwsKms::connect_with(&arn.parse().unwrap(), &config).await.unwrap())
}

/// v1 under [`OLD`], or v2 under `from`, to v2 under `to`.
async fn job(stage: &Stage, from: Option<&Arc<dyn Kms>>, to: &Arc<dyn Kms>, scope: DataKeyScope) -> Job {
    let mut opener = Opener::new("org_instances", COLUMNS.map(str::to_owned));
    opener.add_kms(Arc::clone(to));
    let old = match from {
        Some(from) => {
            opener.add_kms(Arc::clone(from));
            from.key_name().to_owned()
        }
        None => {
            opener.add_static(Arc::new(StaticCipher::new(&StaticKey::from_slice(&OLD).unwrap())));
            "static:old".to_owned()
        }
    };
    Job {
        store: Arc::clone(&stage.store),
        target: Arc::new(stage.target().await),
        keys: RunKeys {
            format: Format::V2,
            new: to.key_name().to_owned(),
            old: vec![old],
            scope,
            kind: RunKind::Rekey,
        },
        opener: Arc::new(opener),
        sealer: Arc::new(Sealer::Wrapped(Arc::clone(to))),
        new_data_key: None,
        options: stage.options.clone(),
    }
}

fn calls(proxy: &FaultProxy) -> [u64; 2] {
    ["GenerateDataKey", "Decrypt"].map(|operation| proxy.requests(operation))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_costs_two_calls_and_a_batch_too() {
    for scope in [DataKeyScope::Row, DataKeyScope::Batch] {
        let mut stage = Stage::new("calls", 100).await;
        stage.options.batch = 25;
        stage.options.workers = 1;
        let proxy = FaultProxy::start(Moto::shared().url());
        let to = key(&proxy, &Moto::shared().create_key().await).await;
        let report = run_job(job(&stage, None, &to, scope).await).await;
        assert_eq!((report.outcome, report.tally.rekeyed), (Outcome::Complete, stage.cells().1));
        let sealed_rows = stage.number("SELECT count(*) FROM org_instances WHERE length(database_url_encrypted) > 0 OR length(redis_url_encrypted) > 0").await;
        let expected = match scope {
            DataKeyScope::Row => u64::try_from(sealed_rows).unwrap(),
            DataKeyScope::Batch => 4,
        };
        assert_eq!(calls(&proxy), [expected; 2], "each is generated and proven once, in all sweeps together");
        assert_eq!(u64::try_from(report.tally.kms_calls).unwrap(), 2 * expected);
        let client = Moto::shared().client().await;
        assert_eq!(stage.differences(Under::Aws(&client)).await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kms_in_trouble_stops_the_run_and_takes_nothing() {
    let proxy = FaultProxy::start(Moto::shared().url());
    let client = Moto::shared().client().await;
    for (label, fault) in [
        ("denied", Fault::DENY),
        ("disabled", Fault::Refuse(409, "DisabledException")),
        ("gone", Fault::Refuse(400, "NotFoundException")),
        ("throttled", Fault::THROTTLE),
        ("broken", Fault::BREAK),
        ("replies lost", Fault::LoseReply),
        ("too slow", Fault::Delay(Duration::from_secs(4))),
    ] {
        let mut stage = Stage::new("trouble", 40).await;
        stage.options.batch = 4;
        stage.options.max_rows_per_second = Some(80);
        let to = key(&proxy, &Moto::shared().create_key().await).await;
        let run = tokio::spawn(try_run_job(job(&stage, None, &to, DataKeyScope::Row).await));
        stage.wait_for("SELECT coalesce(sum(scanned), 0)::bigint FROM reseal_shards").await;
        proxy.inject(Rule::every(fault));
        let error = run.await.unwrap().unwrap_err();
        assert!(matches!(error, RekeyError::Kms(_)) && error.is_resumable(), "{label}: {error}");
        let either = [Under::Static(&OLD), Under::Aws(&client)];
        assert_eq!(stage.differences_under_any(&either).await, [""; 0], "{label}");
        assert_eq!(stage.store.quarantine_size("org_instances").await.unwrap(), 0, "{label}");

        proxy.clear();
        stage.options.max_rows_per_second = None;
        let report = run_job(job(&stage, None, &to, DataKeyScope::Row).await).await;
        assert_eq!((report.outcome, report.tally.total), (Outcome::Complete, 80), "{label}");
        assert_eq!(report.tally.rekeyed, stage.cells().1);
        assert!(report.tally.sums());
        assert_eq!(stage.differences(Under::Aws(&client)).await, [""; 0], "{label}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kms_that_stumbles_is_asked_again() {
    let mut stage = Stage::new("stumbles", 60).await;
    stage.options.batch = 10;
    let proxy = FaultProxy::start(Moto::shared().url());
    let to = key(&proxy, &Moto::shared().create_key().await).await;
    for (operation, fault) in [("Decrypt", Fault::THROTTLE), ("GenerateDataKey", Fault::LoseReply)] {
        proxy.inject(Rule::next(1, fault).of(operation));
    }
    let report = run_job(job(&stage, None, &to, DataKeyScope::Row).await).await;
    assert_eq!((report.outcome, report.tally.rekeyed), (Outcome::Complete, stage.cells().1));
    let client = Moto::shared().client().await;
    assert_eq!(stage.differences(Under::Aws(&client)).await, [""; 0]);
}

/// From one KMS key to another, with one value whose KMS key is gone and one whose blob is damaged.
#[tokio::test(flavor = "multi_thread")]
async fn one_value_under_a_key_that_is_gone_stops_nothing() {
    let mut stage = Stage::new("gone", 50).await;
    let proxy = FaultProxy::start(Moto::shared().url());
    // As AWS does and moto doesn't: another key's blob is told from a key that may not be used.
    proxy.inject(Rule::every(Fault::ForgetKey).of("Decrypt"));
    let from = key(&proxy, &Moto::shared().create_key().await).await;
    let to = key(&proxy, &Moto::shared().create_key().await).await;
    run_job(job(&stage, None, &from, DataKeyScope::Row).await).await;

    let sealed = stage.expected.0.iter().filter(|(_, holds)| {
        matches!(holds, [crate::support::tenants::Holds::Sealed(_), crate::support::tenants::Holds::Null])
    });
    let rows: Vec<_> = sealed.map(|(row, _)| *row).take(2).collect();
    for (number, row) in rows.iter().enumerate() {
        let get = "SELECT database_url_encrypted FROM org_instances WHERE org_id = $1";
        let mut value: Vec<u8> = sqlx::query_scalar(get).bind(row).fetch_one(&stage.on.pool).await.unwrap();
        let blob = oracle::split_v2(&value).unwrap().0.len();
        match number {
            // moto's blob begins with the id of its key.
            0 => value[3] ^= 1,
            // And ends with the wrapped key.
            _ => value[3 + blob - 1] ^= 1,
        }
        let set = "UPDATE org_instances SET database_url_encrypted = $1 WHERE org_id = $2";
        sqlx::query(set).bind(value).bind(row).execute(&stage.on.pool).await.unwrap();
        stage.expected.0.remove(row);
    }
    let report = run_job(job(&stage, Some(&from), &to, DataKeyScope::Row).await).await;
    assert_eq!((report.outcome, report.tally.quarantined), (Outcome::Quarantined, 2));
    assert_eq!((report.tally.total, report.tally.rekeyed), (100, stage.cells().1));
    assert!(report.tally.sums());
    let records = stage.store.quarantine("org_instances", None, 10).await.unwrap();
    for (row, reason) in rows.iter().zip(["key-unavailable", "unopened"]) {
        let record = records.iter().find(|record| record.row_key == row.to_string()).unwrap();
        assert_eq!(record.reason, reason);
    }
    let client = Moto::shared().client().await;
    let left_out = stage.differences(Under::Aws(&client)).await;
    assert!(
        left_out.len() == 2 && left_out.iter().all(|line| line.contains("not one of the rows")),
        "{left_out:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_crashes_twice_loses_nothing() {
    let cluster: &'static TempPostgres = Box::leak(Box::new(TempPostgres::start()));
    let database = cluster.database("crash");
    let url = database.url();
    let mut stage = Stage::build(database, &url, 1200).await;
    stage.options.batch = 20;
    stage.options.max_rows_per_second = Some(400);
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let choice = stage.choice(Format::V2, &[&old], &format!("local-kms:{}", keyring.display()));
    let crashes = tokio::task::spawn_blocking(|| {
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(900));
            cluster.restart_immediate();
        }
    });
    let report = stage.run_until_over(&choice).await;
    crashes.await.unwrap();
    assert_eq!((report.outcome, report.tally.scanned), (Outcome::Complete, 1200));
    assert_eq!((report.tally.total, report.tally.rekeyed), stage.cells());
    assert!(report.tally.sums());
    assert_eq!(stage.differences(Under::Wrapped(&keyring)).await, [""; 0]);
    assert!(stage.verify(&choice).await.passed());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_cut_and_statements_cancelled_at_random_lose_nothing() {
    for function in ["pg_terminate_backend", "pg_cancel_backend"] {
        let mut stage = Stage::new("cut", 1500).await;
        stage.options.batch = 20;
        stage.options.max_rows_per_second = Some(1000);
        let (old, new) = (stage.old(), stage.static_key("new", &[0x22; 32]));
        let choice = stage.choice(Format::V1, &[&old], &new);
        let vandal = tokio::spawn({
            let pool = stage.on.pool.clone();
            async move {
                let sql = format!(
                    "SELECT {function}(pid) FROM (SELECT pid FROM pg_stat_activity WHERE application_name = 'reseal' \
                     AND datname = current_database() ORDER BY random() LIMIT 1) some"
                );
                loop {
                    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.as_str())).execute(&pool).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(rand::random_range(1..60))).await;
                }
            }
        });
        let report = stage.run_until_over(&choice).await;
        vandal.abort();
        assert_eq!((report.outcome, report.tally.scanned), (Outcome::Complete, 1500), "{function}");
        assert_eq!((report.tally.total, report.tally.rekeyed), stage.cells());
        assert!(report.tally.sums());
        assert_eq!(stage.differences(Under::Static(&[0x22; 32])).await, [""; 0]);
    }
}

/// What the database refuses is no trouble that passes: the run says so and is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_midway_ends_the_run() {
    let mut stage = Stage::new("revoked", 400).await;
    stage.options.batch = 20;
    stage.options.max_rows_per_second = Some(200);
    let (old, new) = (stage.old(), stage.static_key("new", &[0x22; 32]));
    let choice = stage.choice(Format::V1, &[&old], &new);
    let run = tokio::spawn(try_run_job(stage.job(&choice, Intent::Run).await));
    stage.wait_for("SELECT coalesce(sum(scanned), 0)::bigint FROM reseal_shards").await;
    stage.execute("ALTER TABLE org_instances RENAME COLUMN redis_url_encrypted TO elsewhere").await;
    let error = run.await.unwrap().unwrap_err();
    assert!(matches!(error, RekeyError::Store(_)) && !error.is_resumable(), "{error}");
    let run = stage.store.latest_run("org_instances").await.unwrap().unwrap();
    assert_eq!(run.state, reseal::store::RunState::Failed);
    stage.execute("ALTER TABLE org_instances RENAME COLUMN elsewhere TO redis_url_encrypted").await;
    let either = [Under::Static(&OLD), Under::Static(&[0x22; 32])];
    assert_eq!(stage.differences_under_any(&either).await, [""; 0]);
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.tally.total), (Outcome::Complete, 800));
    assert_eq!(report.tally.rekeyed + report.tally.current, stage.cells().1);
}
