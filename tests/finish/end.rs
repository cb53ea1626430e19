//! Destroying: too early, with a clock that was set back, with a value that shows the key.

use super::{Road, old_key};
use crate::cli::operator::{OLD, Operator};

async fn retired(name: &str) -> Road {
    let road = Road::verified(name, "v3").await;
    road.retire(&[]).exits(0);
    road
}

#[tokio::test]
async fn a_clock_that_was_set_back_measures_no_soak() {
    let road = retired("finish_clock").await;
    road.execute("UPDATE reseal_retirements SET retired_at = retired_at + interval '1 hour'").await;
    let destroy = ["destroy", "static:env:OLD_KEY", "--soak", "0s", "--confirm", &old_key()];
    let refused = road.operator.reseal(&destroy).exits(4);
    assert!(refused.err.contains("the database's clock was set back"), "{}", refused.err);
    road.execute("UPDATE reseal_retirements SET retired_at = clock_timestamp() - interval '2 days'").await;
    // The retirement is old enough, but something was recorded later than it is now.
    road.execute(
        "ALTER TABLE reseal_audit DISABLE TRIGGER USER; \
         UPDATE reseal_audit SET at_ms = at_ms + 3600000 WHERE seq = (SELECT max(seq) FROM reseal_audit); \
         ALTER TABLE reseal_audit ENABLE TRIGGER USER",
    )
    .await;
    let refused = road.operator.reseal(&destroy).exits(4);
    assert!(refused.err.contains("the database's clock was set back"), "{}", refused.err);
    assert_eq!(road.number("SELECT count(*) FROM reseal_retirements WHERE state = 'destroyed'").await, 0);
}

#[tokio::test]
async fn a_fence_that_comes_down_after_the_end_is_missed_aloud() {
    let road = retired("finish_fence_off").await;
    let off = road.operator.reseal(&["fence", "off"]).exits(0);
    assert!(off.out.contains(&format!("{} is retired", old_key())), "{}", off.out);
    assert_eq!(off.hints(), ["to have it back: reseal fence enforce --new KEY"]);
}

#[tokio::test]
async fn a_value_under_the_key_forbids_it() {
    let road = retired("finish_census").await;
    road.execute("ALTER TABLE org_instances DISABLE TRIGGER USER").await;
    road.stale_write().await.unwrap();
    let destroy = ["destroy", "static:env:OLD_KEY", "--soak", "0s", "--confirm", &old_key()];
    let refused = road.operator.reseal(&destroy).exits(4);
    assert!(
        refused.err.contains(&format!("1 values of org_instances are under {} again", old_key())),
        "{}",
        refused.err
    );
    road.execute("UPDATE org_instances SET database_url_encrypted = ''").await;
    road.operator.reseal(&destroy).exits(0);
}

#[tokio::test]
async fn a_value_that_shows_a_data_key_forbids_it() {
    let road = Road::new("finish_header", 15, "v3").await;
    road.sweep().exits(0);
    let (id, value): (String, Vec<u8>) = sqlx::query_as(
        "SELECT encode(key_id, 'hex'), (SELECT database_url_encrypted FROM org_instances \
         WHERE octet_length(database_url_encrypted) > 0 LIMIT 1) FROM reseal_data_keys",
    )
    .fetch_one(&road.pool)
    .await
    .unwrap();
    let key = format!("data-key:{id}");
    road.type_with(&["run", "--new-data-key"]).exits(0);
    road.type_with(&["fence", "enforce"]).exits(0);
    road.type_with(&["verify"]).exits(0);
    road.type_with(&["retire", &key]).exits(0);
    road.execute("ALTER TABLE org_instances DISABLE TRIGGER USER").await;
    sqlx::query("UPDATE org_instances SET redis_url_encrypted = $1 WHERE org_id = (SELECT min(org_id::text)::uuid FROM org_instances)")
        .bind(value)
        .execute(&road.pool)
        .await
        .unwrap();
    let refused = road.operator.reseal(&["destroy", &key, "--soak", "0s", "--confirm", &id]).exits(4);
    assert!(refused.err.contains("1 values of org_instances are under data-key:"), "{}", refused.err);
    assert_eq!(road.number("SELECT count(*) FROM reseal_data_keys WHERE wrapped IS NULL").await, 0);
}

#[tokio::test]
async fn a_soak_is_a_number_and_a_unit() {
    let road = Road::new("finish_soak", 1, "v3").await;
    for soak in ["35", "1.5d", "soon"] {
        let refused = road.operator.reseal(&["destroy", "static:env:OLD_KEY", "--soak", soak]).exits(2);
        assert!(refused.err.contains("a whole number and d, h, m or s"), "{}", refused.err);
    }
}

/// A backup brings values under the retired key back: every line that is said then leads on, and none in a circle.
#[tokio::test]
async fn values_that_a_backup_brings_back_leave_the_retired_key_again() {
    let road = Road::verified("finish_restored", "v2").await;
    road.retire(&["--waive", "holders"]).exits(0);
    road.operator.reseal(&["fence", "off"]).exits(0);
    road.stale_write().await.unwrap();

    let verify = road.type_with(&["verify"]).exits(3);
    assert!(verify.hints()[1].ends_with("--format v2 --old OLD-KEY"), "{:?}", verify.hints());
    let status = road.operator.reseal(&["status"]).exits(0);
    assert!(status.out.contains(": 1 values FAILED.\n"), "{}", status.out);
    assert_eq!(
        status.hints(),
        ["values failed the latest verify; with every key that they may be under: \
          reseal run --format v2 --new NEW-KEY --old OLD-KEY"]
    );
    let document = road.operator.reseal(&["status", "--output", "json"]).exits(0).json();
    assert_eq!(
        (&document["verify"]["failed"], &document["verify"]["of_latest_run"]),
        (&1.into(), &true.into())
    );
    let destroy = ["destroy", "static:env:OLD_KEY", "--soak", "0s", "--confirm", &old_key()];
    let refused = road.operator.reseal(&destroy).exits(4);
    assert!(refused.hints()[0].ends_with("--old static:env:OLD_KEY"), "{:?}", refused.hints());

    let run = road.type_with(&["run", "--old", "static:env:OLD_KEY"]).exits(0);
    assert_eq!(run.hints(), ["reseal verify --new local-kms:keyring.json --format v2"]);
    let status = road.operator.reseal(&["status"]).exits(0);
    assert!(status.out.contains(": 1 values FAILED, and there was a run since.\n"), "{}", status.out);
    assert_eq!(status.hints(), ["reseal verify --format v2 --new NEW-KEY"]);
    road.operator.type_line(run.hints()[0]).exits(0);
    let status = road.operator.reseal(&["status"]).exits(0);
    assert!(status.out.contains(": every value passed.\n"), "{}", status.out);
    assert!(status.hints()[0].starts_with("after the soak: reseal destroy OLD-KEY"), "{:?}", status.hints());
    road.operator.reseal(&destroy).exits(0);
}

/// The line that destroys a file comes after the one that says to keep a copy of it.
#[tokio::test]
async fn a_copy_is_kept_before_the_file_is_shredded() {
    let (operator, _pool, _) = Operator::on_sqlite(5).await;
    operator.file("old.key", &hex::encode(OLD), 0o600);
    operator.reseal(&["init"]).exits(0);
    operator
        .reseal(&["run", "--format", "v3", "--old", "static:file:old.key", "--new", "local-kms:keyring.json"])
        .exits(0);
    let new = ["--new", "local-kms:keyring.json", "--format", "v3"];
    let refused = operator.reseal(&[&["retire", "static:file:old.key"], &new[..]].concat()).exits(4);
    let commands = ["reseal fence enforce ", "reseal run ", "reseal verify "];
    for (hint, command) in refused.hints().iter().zip(commands) {
        assert!(hint.starts_with(command), "{}", refused.err);
        operator.type_line(hint).exits(0);
    }
    let retired = operator.reseal(&[&["retire", "static:file:old.key"], &new[..]].concat()).exits(0);
    let at = |what: &str| retired.out.find(what).unwrap_or_else(|| panic!("{what}: {}", retired.out));
    assert!(at("Keep one copy offline") < at("shred -u old.key"), "{}", retired.out);
}
