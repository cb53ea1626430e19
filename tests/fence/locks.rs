//! When a fence takes effect, and whom it waits for.

use std::time::Duration;

use reseal::{
    rekey::{self, RekeyError},
    store::{FenceMode, StoreError},
};

use super::field::{Field, KEY, bound, bytes, is_fenced, v1, v3, write};

fn stale() -> String {
    format!("UPDATE t SET a = {} WHERE k = 1", bytes(&v1(9)))
}

async fn wait_for(field: &Field, sql: &str) {
    for _ in 0..1500 {
        if field.number(sql).await != 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited for 30 s: {sql}");
}

const WAITING: &str = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 't'::regclass";

/// A transaction that began before the fence and has not written the table yet is checked, whatever its snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_began_before_and_writes_after_is_checked() {
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        for mode in [FenceMode::Enforce, FenceMode::Observe] {
            let field = Field::new("fence_began").await;
            field.execute("CREATE TABLE other (x int)").await;
            let mut conn = field.session().await;
            let begin = format!(
                "BEGIN ISOLATION LEVEL {isolation}; SELECT * FROM t; SELECT * FROM t FOR UPDATE; INSERT INTO other VALUES (1)"
            );
            write(&mut conn, &begin).await.unwrap();
            field.raise(mode, bound()).await;
            let done = write(&mut conn, &stale()).await;
            match mode {
                FenceMode::Enforce => drop(is_fenced(done)),
                FenceMode::Observe => {
                    assert_eq!(done.unwrap(), 1);
                    write(&mut conn, "COMMIT").await.unwrap();
                    assert_eq!(field.store.stale_writes("t", 9).await.unwrap().len(), 1);
                }
            }
        }
    }
}

/// One that has written is waited for: when the fence is up, it has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_wrote_before_has_ended_when_the_fence_is_up() {
    let field = Field::new("fence_wrote").await;
    let mut conn = field.session().await;
    write(&mut conn, &format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {}", stale())).await.unwrap();
    let (store, target) = (std::sync::Arc::clone(&field.store), field.target().await);
    let raising = tokio::spawn(async move {
        let patience = Duration::from_secs(60);
        rekey::raise_fence(store.as_ref(), &target, FenceMode::Enforce, bound(), patience, |_| {}).await
    });
    wait_for(&field, WAITING).await;
    // It may go on as it began: no fence is there yet.
    write(&mut conn, "UPDATE t SET note = 'still'").await.unwrap();
    assert!(!raising.is_finished());
    write(&mut conn, &format!("{}; COMMIT", stale())).await.unwrap();
    raising.await.unwrap().unwrap();
    assert_eq!(field.number(&format!("SELECT count(*) FROM t WHERE a = {}", bytes(&v1(9)))).await, 1);
    is_fenced(write(&mut conn, &format!("UPDATE t SET a = {}", bytes(&v1(10)))).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_in_the_way_is_named_and_nothing_changes() {
    let field = Field::new("fence_blocked").await;
    let observing = field.raise(FenceMode::Observe, bound()).await;
    let mut conn = field.session().await;
    write(&mut conn, "SET application_name = 'forgotten'").await.unwrap();
    write(&mut conn, "BEGIN; UPDATE t SET note = 'open'").await.unwrap();
    let mut reader = field.session().await;
    write(&mut reader, "SET application_name = 'reader'; BEGIN; SELECT * FROM t").await.unwrap();

    let target = field.target().await;
    let mut told = Vec::new();
    let patience = Duration::from_secs(3);
    let raising =
        rekey::raise_fence(field.store.as_ref(), &target, FenceMode::Enforce, bound(), patience, |by| {
            told.push(by.to_vec());
        });
    let error = raising.await.unwrap_err();
    assert!(error.is_resumable(), "{error}");
    assert!(
        matches!(&error, RekeyError::Store(StoreError::Transient { code, .. }) if code == "55P03"),
        "{error}"
    );
    assert!(told.len() > 1, "it tried more than once");
    for by in told {
        let [blocker] = by.as_slice() else { panic!("the reader is not in the way: {by:?}") };
        assert_eq!(blocker.application.as_deref(), Some("forgotten"));
        assert_eq!(blocker.state.as_deref(), Some("idle in transaction"));
        assert!(blocker.pid.is_some() && blocker.open_seconds.is_some() && blocker.writes);
    }
    assert_eq!(field.store.fence("t").await.unwrap().unwrap(), observing);
    write(&mut conn, &format!("COMMIT; {}", stale())).await.unwrap();
    assert_eq!(field.store.stale_writes("t", 9).await.unwrap()[0].count, 1, "it observes as before");

    // Who only reads is not waited for, until a trigger is to go.
    let raising =
        rekey::raise_fence(field.store.as_ref(), &target, FenceMode::Enforce, bound(), patience, |_| {});
    raising.await.unwrap();
    is_fenced(field.write(&format!("UPDATE t SET a = {}", bytes(&v1(10)))).await);
    let mut told = Vec::new();
    let patience = Duration::from_secs(1);
    let error = rekey::lower_fence(field.store.as_ref(), "t", patience, |by| told.push(by.to_vec()))
        .await
        .unwrap_err();
    assert!(error.is_resumable());
    assert_eq!(told[0][0].application.as_deref(), Some("reader"));
    assert!(!told[0][0].writes);
    is_fenced(field.write(&format!("UPDATE t SET a = {}", bytes(&v1(10)))).await);
    write(&mut reader, "COMMIT").await.unwrap();
    field.store.lower_fence("t").await.unwrap().unwrap();
    field.write(&stale()).await.unwrap();
}

/// Writers at work while the fence moves: each write is either before it or checked.
#[tokio::test(flavor = "multi_thread")]
async fn writers_are_refused_from_one_moment_on() {
    let field = Field::new("fence_moment").await;
    for k in 2..=9 {
        field.execute(&format!("INSERT INTO t (k, a) VALUES ({k}, {})", bytes(&v3(KEY, 1)))).await;
    }
    let writers: Vec<_> = (2..=9_u8)
        .map(|k| {
            let url = field.database.url();
            tokio::spawn(async move {
                let mut conn = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
                for written in 0..u64::MAX {
                    let sql = format!(
                        "UPDATE t SET a = {} WHERE k = {k}",
                        bytes(&v1(u8::try_from(written % 250).unwrap()))
                    );
                    if let Err(refusal) = write(&mut conn, &sql).await {
                        assert_eq!(refusal.code, "RK001");
                        // From here on there is no way back in.
                        for _ in 0..50 {
                            is_fenced(write(&mut conn, &sql).await);
                        }
                        return written;
                    }
                }
                unreachable!("it is refused some day")
            })
        })
        .collect();
    wait_for(&field, &format!("SELECT count(*) / 8 FROM t WHERE k > 1 AND a <> {}", bytes(&v3(KEY, 1))))
        .await;
    let (target, patience) = (field.target().await, Duration::from_secs(30));
    rekey::raise_fence(field.store.as_ref(), &target, FenceMode::Enforce, bound(), patience, |_| {})
        .await
        .unwrap();
    let rows = field.rows().await;
    for writer in writers {
        assert!(writer.await.unwrap() > 0);
    }
    assert_eq!(field.rows().await, rows, "nothing was written after the fence was up");
}
