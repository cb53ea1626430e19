//! The fence in SQLite.

use std::{path::PathBuf, process::Command, time::Duration};

use reseal::{
    rekey,
    store::{Fence, FenceMode, FenceRule, Fences, Store, Target, TargetName, sqlite::Sqlite},
};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use super::field::{KEY, bound, v1, v3};

pub(super) struct File {
    store: Sqlite,
    path: PathBuf,
    _folder: TempDir,
}

impl File {
    /// A table with one row, the first, whose values are v1.
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let store = Sqlite::create(&path).await.unwrap();
        store.migrate().await.unwrap();
        let file = Self { store, path, _folder: folder };
        let v1 = hex::encode(v1(1));
        file.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, a BLOB, b TEXT COLLATE NOCASE, note TEXT)")
            .await
            .unwrap();
        file.execute(&format!("INSERT INTO t VALUES (1, x'{v1}', 'pQEB', 'old')")).await.unwrap();
        file
    }

    pub(super) async fn session(&self) -> SqliteConnection {
        SqliteConnectOptions::new().filename(&self.path).connect().await.unwrap()
    }

    /// Runs statements, or gives what SQLite said.
    pub(super) async fn execute(&self, sql: &str) -> Result<u64, String> {
        let done = self.session().await.execute(AssertSqlSafe(sql)).await;
        done.map(|done| done.rows_affected()).map_err(|error| error.to_string())
    }

    async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.session().await).await.unwrap()
    }

    async fn target(&self) -> Target {
        let name = TargetName {
            logical: None,
            schema: None,
            table: "t".to_owned(),
            key_column: "k".to_owned(),
            columns: vec!["a".to_owned(), "b".to_owned()],
        };
        self.store.inspect(&name).await.unwrap().target.unwrap()
    }

    pub(super) async fn raise(&self, mode: FenceMode, rule: FenceRule) -> Fence {
        let fence = self.store.raise_fence(&self.target().await, mode, rule).await.unwrap();
        assert_eq!((fence.mode, fence.rule, fence.drift.as_slice()), (mode, rule, [].as_slice()));
        fence
    }
}

#[track_caller]
fn is_fenced(done: Result<u64, String>) {
    let message = done.unwrap_err();
    assert!(message.contains("the reseal fence refuses this write: t."), "{message}");
    assert!(message.contains("restart it"), "{message}");
}

#[tokio::test]
async fn every_way_to_write_is_checked() {
    let file = File::new().await;
    file.raise(FenceMode::Enforce, bound()).await;
    let (new, stale) = (hex::encode(v3(KEY, 1)), hex::encode(v1(9)));
    file.execute(&format!("INSERT INTO t (k, a) VALUES (2, x'{new}')")).await.unwrap();
    for sql in [
        "INSERT INTO t (k, a) VALUES (3, x'{}')",
        "INSERT INTO t (k, b) SELECT 4, '{}'",
        "INSERT OR REPLACE INTO t (k, a) VALUES (2, x'{}')",
        "INSERT OR IGNORE INTO t (k, a) VALUES (5, x'{}')",
        "INSERT INTO t (k, a) VALUES (2, x'{}') ON CONFLICT DO UPDATE SET a = excluded.a",
        "UPDATE t SET b = '{}' WHERE k = 2",
        "UPDATE OR IGNORE t SET note = 'x', a = x'{}' WHERE k = 2",
        "UPDATE t SET a = CAST(x'{}' AS TEXT) WHERE k = 2",
        "PRAGMA recursive_triggers = ON; REPLACE INTO t (k, a) VALUES (2, x'{}')",
    ] {
        is_fenced(file.execute(&sql.replace("{}", &stale)).await);
    }
    assert_eq!(file.number(&format!("SELECT count(*) = 2 AND max(a) = x'{stale}' FROM t")).await, 0);
    for sql in [
        format!("UPDATE t SET a = x'{}', note = 'a full save' WHERE k = 1", hex::encode(v1(1))),
        format!("INSERT INTO t (k, a) VALUES (1, x'{stale}') ON CONFLICT DO UPDATE SET note = 'not a'"),
        "INSERT INTO t (k, a, b) VALUES (6, NULL, NULL), (7, x'', '')".to_owned(),
        "UPDATE t SET a = NULL, b = ''".to_owned(),
    ] {
        file.execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    // A collation that takes two texts for equal does not make a changed value an unchanged one.
    file.store.lower_fence("t").await.unwrap();
    file.execute("UPDATE t SET b = 'pqeb' WHERE k = 1").await.unwrap();
    file.raise(FenceMode::Enforce, bound()).await;
    is_fenced(file.execute("UPDATE t SET b = 'PQEB' WHERE k = 1").await);
}

#[tokio::test]
async fn an_observing_fence_records_and_lets_through() {
    let file = File::new().await;
    file.execute(
        "INSERT INTO reseal_data_keys (key_id, wrap_id, purpose, kms, wrapped, state) \
         VALUES (CAST('another-data-key' AS BLOB), 'w', 't', 'k', x'00', 'draining')",
    )
    .await
    .unwrap();
    file.raise(FenceMode::Observe, bound()).await;
    let known = hex::encode(v3(*b"another-data-key", 1));
    for sql in [
        format!("UPDATE t SET a = x'{}' WHERE k = 1", hex::encode(v1(2))),
        format!("UPDATE t SET a = x'{}' WHERE k = 1", hex::encode(v1(3))),
        format!("INSERT INTO t (k, a) VALUES (2, x'{known}')"),
        format!("UPDATE t SET a = x'{}' WHERE k = 2", hex::encode(v3(KEY, 1))),
        format!("BEGIN; UPDATE t SET a = x'{}'; ROLLBACK", hex::encode(v1(4))),
        "UPDATE t SET b = 'x' WHERE k = 2".to_owned(),
    ] {
        file.execute(&sql).await.unwrap();
    }
    let seen = file.store.stale_writes("t", 10).await.unwrap();
    let seen: Vec<_> = seen
        .iter()
        .map(|w| (w.column.as_str(), w.wrote.as_str(), w.count, w.row_key.as_deref().unwrap()))
        .collect();
    let another = format!("v3 under data-key:{}", hex::encode("another-data-key"));
    assert_eq!(
        seen,
        [("b", "v1, v3 or unknown", 1, "2"), ("a", another.as_str(), 1, "2"), ("a", "v1 or unknown", 2, "1")]
    );
}

#[tokio::test]
async fn off_leaves_no_trace_and_drift_is_named() {
    let file = File::new().await;
    let schema = "SELECT count(*) * 1000000 + coalesce(sum(length(sql)), 0) FROM sqlite_schema";
    let before = file.number(schema).await;
    file.raise(FenceMode::Observe, bound()).await;
    file.raise(FenceMode::Enforce, bound()).await;
    assert_ne!(file.number(schema).await, before);
    file.store.lower_fence("t").await.unwrap().unwrap();
    assert_eq!(file.number(schema).await, before);
    assert_eq!(file.store.lower_fence("t").await.unwrap(), None);

    for (sql, drift) in [
        ("DROP TRIGGER {}_insert", "trigger {}_insert is gone"),
        (
            "DROP TRIGGER {}_update; CREATE TRIGGER {}_update AFTER UPDATE ON t BEGIN SELECT 1; END",
            "trigger {}_update is not as it was made",
        ),
    ] {
        let first = file.raise(FenceMode::Enforce, bound()).await;
        let stem: String = sqlx::query_scalar(
            "SELECT replace(name, '_insert', '') FROM sqlite_schema WHERE name LIKE 'reseal_fence_%_insert'",
        )
        .fetch_one(&mut file.session().await)
        .await
        .unwrap();
        file.execute(&sql.replace("{}", &stem)).await.unwrap();
        let found = file.store.fence("t").await.unwrap().unwrap();
        assert_eq!(found.drift, [drift.replace("{}", &stem)]);
        let mended = file.raise(FenceMode::Enforce, bound()).await;
        assert!(mended.since_ms >= first.since_ms);
        is_fenced(file.execute(&format!("UPDATE t SET a = x'{}'", hex::encode(v1(9)))).await);
    }
    file.execute("ALTER TABLE t RENAME COLUMN a TO z").await.unwrap();
    let found = file.store.fence("t").await.unwrap().unwrap();
    assert_eq!(found.drift[0], "column a is gone, or has another name");
    is_fenced(file.execute(&format!("UPDATE t SET z = x'{}'", hex::encode(v1(9)))).await);
    file.execute("DROP TABLE t").await.unwrap();
    assert_eq!(file.store.fence("t").await.unwrap().unwrap().drift[0], "table t is gone");
    file.store.lower_fence("t").await.unwrap().unwrap();
    assert_eq!(
        file.number("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'reseal_fence_%_insert'").await,
        0
    );
}

/// A transaction that holds the file is waited for, and then the fence is up for everybody.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_writer_is_waited_for() {
    let file = File::new().await;
    let stale = format!("UPDATE t SET a = x'{}' WHERE k = 1", hex::encode(v1(9)));
    let target = file.target().await;
    let mut other = file.session().await;
    other.execute(AssertSqlSafe(format!("BEGIN IMMEDIATE; {stale}"))).await.unwrap();
    let mut tries = 0;
    let patience = Duration::ZERO;
    let error =
        rekey::raise_fence(&file.store, &target, FenceMode::Enforce, bound(), patience, |_| tries += 1)
            .await
            .unwrap_err();
    assert!(error.is_resumable() && tries == 1, "{error}");
    assert_eq!(file.store.fence("t").await.unwrap(), None);
    other.execute("COMMIT").await.unwrap();
    rekey::raise_fence(&file.store, &target, FenceMode::Enforce, bound(), patience, |_| {}).await.unwrap();
    let again = other.execute(AssertSqlSafe(format!("UPDATE t SET a = x'{}'", hex::encode(v1(10))))).await;
    assert!(again.unwrap_err().to_string().contains("the reseal fence refuses"));
}

/// What SQLite 3.24 has of what a trigger calls: it runs in the writer's library, whatever that is.
const KNOWN: [&str; 13] = [
    "CAST",
    "RAISE",
    "coalesce",
    "hex",
    "instr",
    "julianday",
    "length",
    "lower",
    "max",
    "min",
    "printf",
    "rtrim",
    "substr",
];

/// The names of what a statement calls.
fn called(sql: &str) -> Vec<&str> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = sql.match_indices('(').map(|(at, _)| {
        let before = &sql[..at];
        &before[before.trim_end_matches(is_of_name).len()..]
    });
    names.filter(|name| !name.is_empty()).collect()
}

#[tokio::test]
async fn a_trigger_calls_nothing_that_an_older_library_lacks() {
    let file = File::new().await;
    for mode in [FenceMode::Observe, FenceMode::Enforce] {
        for rule in [bound(), FenceRule::Wrapped] {
            file.raise(mode, rule).await;
            let sql = "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'reseal_fence_%'";
            let triggers: Vec<String> =
                sqlx::query_scalar(sql).fetch_all(&mut file.session().await).await.unwrap();
            assert_eq!(triggers.len(), 2);
            for trigger in triggers {
                let called = called(&trigger);
                let unknown = called.iter().find(|name| !KNOWN.contains(*name));
                assert_eq!(unknown, None, "{trigger}");
                // A default of ours would be evaluated there too, and IGNORE hides what fails.
                assert!(!trigger.contains("OR IGNORE"), "{trigger}");
                assert_eq!(trigger.matches("events (target, at, ").count(), trigger.matches("INTO").count());
            }
        }
    }
}

/// A program with a library of its own, which on Debian 12 is older than `unixepoch('subsec')`.
#[tokio::test]
async fn the_command_line_tool_is_seen_and_refused() {
    let file = File::new().await;
    let sqlite3 = |sql: &str| Command::new("sqlite3").arg(&file.path).arg(sql).output();
    if sqlite3("SELECT 1").is_err() {
        return eprintln!("SKIPPED: there is no sqlite3 here");
    }
    file.raise(FenceMode::Observe, bound()).await;
    let stale = format!("UPDATE t SET a = x'{}' WHERE k = 1", hex::encode(v1(9)));
    for sql in
        [&stale, "INSERT INTO t (k, b) VALUES (2, 'pQEC')", "INSERT OR REPLACE INTO t (k, b) VALUES (2, 'x')"]
    {
        let done = sqlite3(sql).unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let seen = file.store.stale_writes("t", 10).await.unwrap();
    let counts: Vec<_> = seen.iter().map(|w| (w.column.as_str(), w.count)).collect();
    assert_eq!(counts, [("b", 2), ("a", 1)]);
    let now = file.number("SELECT CAST(unixepoch('subsec') * 1000 AS integer)").await;
    assert!(seen.iter().all(|w| (now - 60_000..=now + 1).contains(&w.last_ms)), "{seen:?} at {now}");

    file.raise(FenceMode::Enforce, bound()).await;
    let refused = sqlite3(&stale.replace("WHERE", "WHERE note = 'old' AND").replace("x'", "x'00")).unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the reseal fence refuses this write: t.a"));
}

/// A fence whose triggers are not those of today is no intact one, though nobody touched it: raising it makes it anew.
#[tokio::test]
async fn a_fence_of_another_version_is_found_and_made_anew() {
    let file = File::new().await;
    file.raise(FenceMode::Observe, bound()).await;
    let name = "SELECT name FROM sqlite_schema WHERE name LIKE 'reseal_fence_%_update'";
    let name: String = sqlx::query_scalar(name).fetch_one(&mut file.session().await).await.unwrap();
    // As it was written once: the time by a default, and what failed ignored.
    file.execute(&format!(
        "DROP TRIGGER {name}; CREATE TRIGGER {name} AFTER UPDATE OF \"a\", \"b\" ON \"t\" BEGIN \
         INSERT OR IGNORE INTO reseal_fence_events (target, operation, column_name, row_key, wrote) \
         SELECT 't', 'UPDATE', 'a', CAST(NEW.\"k\" AS TEXT), 'v1 or unknown'; END; \
         UPDATE reseal_fences SET objects = json_set(objects, '$.\"trigger {name}\"', \
         (SELECT sql FROM sqlite_schema WHERE name = '{name}'))"
    ))
    .await
    .unwrap();
    let found = file.store.fence("t").await.unwrap().unwrap();
    assert_eq!(found.drift, [format!("trigger {name} was made by another version of reseal")]);
    file.raise(FenceMode::Observe, bound()).await;
    assert!(file.store.fence("t").await.unwrap().unwrap().is_intact());
    let old = "SELECT count(*) FROM sqlite_schema WHERE sql LIKE '%OR IGNORE INTO reseal_fence_events%'";
    assert_eq!(file.number(old).await, 0);
}
