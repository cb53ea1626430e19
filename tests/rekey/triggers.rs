//! Tables whose triggers do something on update, and rows that come back as they were.

use reseal::{
    envelope::Format,
    rekey::{Intent, Outcome, RekeyError},
    store::{RunState, StoreError, TargetName},
};

use super::stage::{OLD, Stage, Under, run_job, try_run_job};
use crate::support::oracle::Key;

const NEW: Key = [0x22; 32];

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_undoes_the_update_stops_the_run() {
    for (label, function, time) in [
        ("gives the old row back", "RETURN OLD;", "BEFORE"),
        ("drops the update", "RETURN NULL;", "BEFORE"),
        (
            "puts the old value back",
            "IF pg_trigger_depth() = 1 THEN UPDATE org_instances SET database_url_encrypted = \
             OLD.database_url_encrypted WHERE org_id = OLD.org_id; END IF; RETURN NULL;",
            "AFTER",
        ),
        (
            "puts one row's value back",
            "IF OLD.org_id <> (SELECT max(org_id::text)::uuid FROM org_instances) THEN RETURN NEW; END IF; RETURN OLD;",
            "BEFORE",
        ),
    ] {
        let stage = Stage::new("undoing", 250).await;
        stage
            .execute(&format!(
                "CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {function} END $$; \
                 CREATE TRIGGER undo {time} UPDATE ON org_instances FOR EACH ROW EXECUTE FUNCTION undo()"
            ))
            .await;
        let (old, new) = (stage.old(), stage.static_key("new", &NEW));
        let choice = stage.choice(Format::V1, &[&old], &new);
        let error = try_run_job(stage.job(&choice, Intent::Run).await).await.unwrap_err();
        assert!(matches!(error, RekeyError::Store(StoreError::Undone { .. })), "{label}: {error}");
        assert!(!error.is_resumable());
        let run = stage.store.latest_run("org_instances").await.unwrap().unwrap();
        assert_eq!(run.state, RunState::Failed);
        assert!(stage.store.tally(&run.run_id, None).await.unwrap().sums());
        let either = [Under::Static(&OLD), Under::Static(&NEW)];
        assert_eq!(stage.differences_under_any(&either).await, [""; 0], "{label}");

        stage.execute("DROP TRIGGER undo ON org_instances").await;
        let report = stage.run(&choice).await;
        assert_eq!((report.outcome, report.tally.total), (Outcome::Complete, 500));
        assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_sets_a_time_is_told_of_and_works() {
    let stage = Stage::new("touching", 300).await;
    stage
        .execute(
            "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at = now(); RETURN NEW; \
             END $$; CREATE TRIGGER touch BEFORE UPDATE ON org_instances FOR EACH ROW EXECUTE FUNCTION touch(); \
             CREATE TRIGGER elsewhere BEFORE UPDATE OF status ON org_instances FOR EACH ROW EXECUTE FUNCTION touch()",
        )
        .await;
    let name = TargetName {
        logical: None,
        schema: None,
        table: "org_instances".to_owned(),
        key_column: "org_id".to_owned(),
        columns: vec!["database_url_encrypted".to_owned()],
    };
    let findings = stage.store.inspect(&name).await.unwrap().findings;
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert!(!finding.refuses && finding.what.contains("trigger touch"), "{finding:?}");
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    let report = stage.run(&stage.choice(Format::V1, &[&old], &new)).await;
    assert_eq!((report.outcome, report.tally.total), (Outcome::Complete, 600));
    assert_eq!((report.tally.rekeyed, report.tally.conflicts), (stage.cells().1, 0));
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
}

/// An update passes over a row that somebody deletes and inserts again, and finds its old value there. That is nobody's
/// undoing.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_put_back_as_it_was_under_the_update_is_no_undoing() {
    let stage = Stage::new("put_back", 40).await;
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    let choice = stage.choice(Format::V1, &[&old], &new);
    let mut other = stage.on.pool.begin().await.unwrap();
    sqlx::raw_sql(
        "CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM org_instances; DELETE FROM org_instances; \
         INSERT INTO org_instances SELECT * FROM kept",
    )
    .execute(&mut *other)
    .await
    .unwrap();
    let run = tokio::spawn(run_job(stage.job(&choice, Intent::Run).await));
    stage.wait_for("SELECT count(*) FROM pg_locks WHERE NOT granted").await;
    other.commit().await.unwrap();
    let report = run.await.unwrap();
    assert_eq!((report.outcome, report.tally.total), (Outcome::Complete, 80));
    assert_eq!(report.tally.rekeyed, stage.cells().1);
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
}
