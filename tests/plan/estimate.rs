//! What a plan estimates is near what a run then takes.

use reseal::{
    envelope::Format,
    rekey::{
        Outcome,
        plan::{self, Plan, Planned},
    },
    store::TargetName,
};

use crate::{
    rekey::stage::Stage,
    support::{
        postgres::TempPostgres,
        tenants::{COLUMNS, TABLE},
    },
};

/// A real run is within this factor of the estimate's ends.
const FACTOR: f64 = 1.5;

async fn planned(stage: &Stage, choice: &reseal::rekey::KeyChoice) -> Plan {
    let name = TargetName {
        logical: None,
        schema: None,
        table: TABLE.to_owned(),
        key_column: "org_id".to_owned(),
        columns: COLUMNS.map(str::to_owned).to_vec(),
    };
    match plan::plan(stage.store.clone(), &name, choice, stage.options.clone()).await.unwrap() {
        Planned::Looked(plan) => *plan,
        Planned::Refused { findings, .. } => panic!("{findings:?}"),
    }
}

fn assert_near(what: &str, estimate: plan::Between, measured: f64) {
    assert!(estimate.least <= estimate.most, "{what}: {estimate:?}");
    assert!(
        measured >= estimate.least / FACTOR && measured <= estimate.most * FACTOR,
        "{what}: {estimate:?}, measured {measured}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn log_growth_and_time_are_near_what_a_run_takes() {
    // A cluster of its own, whose log is this run's alone.
    let cluster = Box::leak(Box::new(TempPostgres::start_with(&["autovacuum = off"])));
    for (name, prepare, format) in [
        ("full_blocks", "", Format::V3),
        ("roomy", "ALTER TABLE org_instances SET (fillfactor = 40); VACUUM FULL org_instances", Format::V3),
        ("indexed", "CREATE INDEX ON org_instances (redis_url_encrypted)", Format::V2),
    ] {
        let database = cluster.database(name);
        let url = database.url();
        let stage = Stage::build(database, &url, 20_000).await;
        for statement in prepare.split("; ").filter(|statement| !statement.is_empty()) {
            stage.execute(statement).await;
        }
        stage.execute("CHECKPOINT").await;
        let keyring = format!("local-kms:{}", stage.keyring("keyring").display());
        let choice = stage.choice(format, &[&stage.old()], &keyring);
        let plan = planned(&stage, &choice).await;
        assert_eq!((plan.census.rows, plan.sample.rows), (20_000, 100));

        let size = "SELECT pg_indexes_size('org_instances') + pg_relation_size('org_instances')";
        let log = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
        let (size_before, log_before) = (stage.number(size).await, stage.number(log).await);
        let hot = "SELECT (100 * n_tup_hot_upd / greatest(n_tup_upd, 1))::bigint FROM pg_stat_user_tables WHERE relname = 'org_instances'";
        let report = stage.run(&choice).await;
        assert_eq!(report.outcome, Outcome::Complete);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let grown = |before: i64, after: i64| (after - before) as f64;
        assert_near(&format!("{name}: log"), plan.writing.log, grown(log_before, stage.number(log).await));
        assert_near(
            &format!("{name}: growth"),
            plan.writing.growth,
            grown(size_before, stage.number(size).await),
        );
        let seconds = report.elapsed.as_secs_f64();
        // Other tests share the machine: only that it is no fantasy.
        assert!(seconds > plan.duration.seconds.least / 10.0, "{name}: {:?}, took {seconds}", plan.duration);
        stage.wait_for("SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'org_instances'").await;
        let in_place = plan.writing.in_place;
        match name {
            "indexed" => assert!(in_place.least <= 0.0 && stage.number(hot).await < 50, "{in_place:?}"),
            "roomy" => assert!(in_place.least > 0.5 && stage.number(hot).await > 80, "{in_place:?}"),
            _ => assert!(in_place.least < 0.2, "{in_place:?}"),
        }
        drop(stage);
    }
    cluster.stop();
}
