//! Tables of other shapes: names, types, lacking columns, and forms of time.

use super::*;

#[tokio::test]
async fn text_values_typed_ids_and_odd_names_are_swapped() {
    let [old_id, new_id] = ["6f1c2f9e-1c1d-4f8e-9d53-0a4f6a3f1b11", "0b0e7ab4-51c5-4c5a-8f0e-3a1f1d9f7c22"];
    for ground in Ground::both().await {
        let (uuid, number, text_type) =
            if ground.is_postgres() { ("uuid", "bigint", "varchar") } else { ("text", "integer", "VARCHAR") };
        ground
            .execute(&format!(
                "CREATE TABLE \"odd \"\"t\"\" é\" (\"select\" {number} PRIMARY KEY, \"app $1\" text, \"machine \"\"id\"\"\" {uuid}, \
                 \"Région\" {text_type}(3), p {uuid}, \"branch ?1\" {number}, \"d d\" text, \"r'\" {text_type}); \
                 INSERT INTO \"odd \"\"t\"\" é\" VALUES (1, 'x', NULL, NULL, NULL, NULL, NULL, NULL), \
                 (-7, 'é ''$1', '{old_id}', 'fra', '{old_id}', 41, 'b2xkIGQ=', 'b2xkIHI=')"
            ))
            .await;
        let target = ground.target_named("odd \"t\" é", "select", ["d d", "r'"]).await;
        let columns = TenantColumns {
            app: "app $1".to_owned(),
            machine: "machine \"id\"".to_owned(),
            region: "Région".to_owned(),
            project: "p".to_owned(),
            branch: "branch ?1".to_owned(),
            status: "d d".to_owned(),
            updated_at: "Updated".to_owned(),
            order: Some("branch ?1".to_owned()),
        };
        assert_eq!(ground.store.missing_columns(&target, &columns).await.unwrap(), ["Updated"]);
        let rows = ground.store.tenants(&target, &columns, None, 10).await.unwrap();
        let old = TenantRow {
            key: RowKey::Integer(-7),
            app: text("é '$1"),
            machine: text(old_id),
            region: text("fra"),
            project: text(old_id),
            branch: text("41"),
            status: text("b2xkIGQ="),
            rank: text("41"),
            cells: vec![Some(b"b2xkIGQ=".to_vec()), Some(b"b2xkIHI=".to_vec())],
        };
        assert_eq!(rows[0], old);
        assert_eq!(rows[1].key, RowKey::Integer(1));
        let cells = [b"bmV3IGQ=".to_vec(), b"bmV3IHI=".to_vec()];
        let mut change = TenantChange { machine: new_id, region: "amsterdam", branch: "42", cells: &cells };
        if ground.is_postgres() {
            let error = ground.store.swap_tenant(&target, &columns, &old, &change).await.unwrap_err();
            assert_eq!(error.code(), Some("22001"), "too long, and not cut off");
        }
        change.region = "ams";
        for row in &rows {
            assert!(ground.store.swap_tenant(&target, &columns, row, &change).await.unwrap());
            let now = ground.store.tenant(&target, &columns, &row.key).await.unwrap().unwrap();
            let expected = TenantRow {
                key: row.key.clone(),
                app: row.app.clone(),
                machine: text(new_id),
                region: text("ams"),
                project: row.project.clone(),
                branch: text("42"),
                status: text("bmV3IGQ="),
                rank: text("42"),
                cells: cells.clone().map(Some).to_vec(),
            };
            assert_eq!(now, expected);
            assert!(!ground.store.swap_tenant(&target, &columns, row, &change).await.unwrap());
        }
        if !ground.is_postgres() {
            let types =
                "SELECT typeof(\"d d\") || typeof(\"r'\") || typeof(\"branch ?1\") FROM \"odd \"\"t\"\" é\"";
            assert_eq!(ground.ask(types).await, "texttextinteger");
        }
    }
}

#[tokio::test]
async fn a_value_of_another_case_is_another_value() {
    for ground in Ground::both().await {
        let collation = if ground.is_postgres() {
            ground
                .execute(
                    "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
                )
                .await;
            "COLLATE nocase"
        } else {
            "COLLATE NOCASE"
        };
        ground
            .execute(&format!(
                "CREATE TABLE t (k text {collation} PRIMARY KEY, fly_app text, fly_machine_id text {collation}, \
                 fly_region text, neon_project_id text, neon_branch_id text, d text {collation}, r text); \
                 INSERT INTO t VALUES ('acme', 'x', 'm1', 'fra', 'p', 'b', 'abcd', 'efgh')"
            ))
            .await;
        let target = ground.target().await;
        let columns = TenantColumns::default();
        assert_eq!(ground.store.missing_columns(&target, &columns).await.unwrap(), ["status", "updated_at"]);
        let key = RowKey::Text("acme".to_owned());
        let old = ground.store.tenant(&target, &columns, &key).await.unwrap().unwrap();
        let shouted = RowKey::Text("ACME".to_owned());
        assert_eq!(ground.store.tenant(&target, &columns, &shouted).await.unwrap(), None);
        for (theirs, ours) in [
            ("k = 'Acme'", "k = 'acme'"),
            ("fly_machine_id = 'M1'", "fly_machine_id = 'm1'"),
            ("d = 'ABCD'", "d = 'abcd'"),
        ] {
            ground.execute(&format!("UPDATE t SET {theirs}")).await;
            assert!(!ground.swap(&target, &old, [b"new", b"new"]).await.unwrap(), "{theirs}");
            ground.execute(&format!("UPDATE t SET {ours}")).await;
        }
        assert!(ground.swap(&target, &old, [b"new", b"new"]).await.unwrap());
    }
}

#[tokio::test]
async fn a_column_that_the_table_lacks_is_named_and_holds_nothing() {
    for ground in Ground::both_with_tenants().await {
        let target = ground.target().await;
        assert_eq!(ground.store.missing_columns(&target, &columns()).await.unwrap(), [""; 0]);
        ground.execute("ALTER TABLE t DROP COLUMN neon_project_id; ALTER TABLE t DROP COLUMN status").await;
        let lacking = TenantColumns { order: Some("status".to_owned()), ..TenantColumns::default() };
        let missing = ground.store.missing_columns(&target, &lacking).await.unwrap();
        assert_eq!(missing, ["neon_project_id", "status"]);
        let old = ground.store.tenants(&target, &lacking, None, 1).await.unwrap().remove(0);
        assert_eq!((&old.project, &old.status, &old.rank), (&None, &None, &None));
        assert_eq!(old.branch, text("br1"));
        assert!(ground.swap(&target, &old, [b"new", b"new"]).await.unwrap(), "neither is written");

        ground.execute("ALTER TABLE t DROP COLUMN neon_branch_id").await;
        let old = ground.tenant(&target, "a").await;
        assert_eq!(old.branch, None);
        let error = ground.swap(&target, &old, [b"newer", b"newer"]).await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused { .. }), "{error}");
        assert_eq!(ground.tenant(&target, "a").await, old, "what can't all be written is not written");
    }
}

#[tokio::test]
async fn the_time_of_the_change_is_written_in_the_form_that_is_there() {
    let sqlite = [
        ("integer", "1700000000", "abs(u - unixepoch()) < 60"),
        ("integer", "1700000000000", "abs(u / 1000 - unixepoch()) < 60"),
        ("text", "'2025-01-02T03:04:05Z'", "u GLOB '20*T*Z' AND abs(unixepoch(u) - unixepoch()) < 60"),
        ("timestamp", "'2025-01-02 03:04:05'", "u NOT LIKE '%T%' AND abs(unixepoch(u) - unixepoch()) < 60"),
        ("text", "NULL", "u IS NULL"),
    ];
    let postgres = [
        ("timestamptz", "'2025-01-02 03:04:05Z'", "abs(extract(epoch FROM now() - u)) < 60"),
        ("timestamp", "'2025-01-02 03:04:05'", "abs(extract(epoch FROM now() - u AT TIME ZONE 'UTC')) < 60"),
        ("timestamptz(0)", "NULL", "abs(extract(epoch FROM now() - u)) < 60"),
        ("bigint", "17", "u = 17"),
    ];
    for ground in Ground::both().await {
        let forms = if ground.is_postgres() {
            // Every session's from now on, the store's connections to come among them.
            let zone = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = ''Asia/Tokyo''', \
                        current_database()); END $$";
            ground.execute(zone).await;
            &postgres[..]
        } else {
            &sqlite[..]
        };
        for (kind, value, then) in forms {
            let table = ground.spelled(&format!(
                "CREATE TABLE t (k integer PRIMARY KEY, fly_app text, fly_machine_id text, fly_region text, \
                 neon_project_id text, neon_branch_id text, d BYTES, r BYTES, u {kind}); \
                 INSERT INTO t (k, u) VALUES (1, {value}), (2, {value})"
            ));
            ground.execute(&table).await;
            let target = ground.target().await;
            let columns = TenantColumns { updated_at: "u".to_owned(), ..TenantColumns::default() };
            let old = ground.store.tenants(&target, &columns, None, 1).await.unwrap().remove(0);
            let cells = [vec![1], vec![2]];
            let change = TenantChange { machine: "m", region: "r", branch: "b", cells: &cells };
            assert!(ground.store.swap_tenant(&target, &columns, &old, &change).await.unwrap());
            let holds = format!("SELECT CASE WHEN {then} THEN 'yes' ELSE 'no' END FROM t WHERE k = 1");
            assert_eq!(ground.ask(&holds).await, "yes", "{kind} {value}");
            let other = format!(
                "SELECT CASE WHEN (SELECT u FROM t WHERE k = 2) IS NOT DISTINCT FROM {value} THEN 'yes' END"
            );
            assert_eq!(ground.ask(&other).await, "yes", "another row's: {kind} {value}");
            ground.execute("DROP TABLE t").await;
        }
    }
}
