//! Tenants are read as they are, and swapped only as they were read.

use reseal::store::{FenceMode, FenceRule};

use super::*;

#[tokio::test]
async fn tenants_are_read_in_the_order_of_their_keys_page_by_page() {
    for ground in Ground::both_with_tenants().await {
        let target = ground.target().await;
        let (mut read, mut pages) = (Vec::new(), Vec::new());
        loop {
            let after = read.last().map(|row: &TenantRow| row.key.clone());
            let page = ground.store.tenants(&target, &columns(), after.as_ref(), 2).await.unwrap();
            if page.is_empty() {
                break;
            }
            pages.push(page.len());
            read.extend(page);
        }
        assert_eq!(pages, [2, 2, 1]);
        let keys: Vec<String> = read.iter().map(|row| row.key.to_string()).collect();
        assert_eq!(keys, ["a", "b", "c", "d", "e"]);
        let expected = TenantRow {
            key: RowKey::Text("a".to_owned()),
            app: text("tenants"),
            machine: text("m1"),
            region: text("fra"),
            project: text("p1"),
            branch: text("br1"),
            status: text("active"),
            rank: text("7"),
            cells: vec![Some(vec![0xd1]), Some(vec![0xe1])],
        };
        assert_eq!(read[0], expected);
        let nothing = TenantRow {
            key: RowKey::Text("b".to_owned()),
            app: None,
            machine: None,
            region: None,
            project: None,
            branch: None,
            status: None,
            rank: None,
            cells: vec![None, None],
        };
        assert_eq!(read[1], nothing, "NULL");
        let empty = TenantRow { key: RowKey::Text("c".to_owned()), rank: text("0"), ..nothing };
        assert_eq!(read[2], empty, "no text and no bytes");
        for row in &read {
            let again = ground.store.tenant(&target, &columns(), &row.key).await.unwrap();
            assert_eq!(again.as_ref(), Some(row));
        }
        let unranked =
            ground.store.tenants(&target, &TenantColumns::default(), None, 1).await.unwrap().remove(0);
        assert_eq!(unranked, TenantRow { rank: None, ..expected });
        let nobody = RowKey::Text("A".to_owned());
        assert_eq!(ground.store.tenant(&target, &columns(), &nobody).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_swap_writes_where_the_tenant_runs_and_nothing_else() {
    for ground in Ground::both_with_tenants().await {
        let target = ground.target().await;
        let before = ground.dump().await;
        let old = ground.tenant(&target, "a").await;
        assert!(ground.swap(&target, &old, [b"new d", b"new e"]).await.unwrap());
        let now = ground.tenant(&target, "a").await;
        let expected = TenantRow {
            machine: text("m-new"),
            region: text("ams"),
            branch: text("br-new"),
            cells: vec![Some(b"new d".to_vec()), Some(b"new e".to_vec())],
            ..old.clone()
        };
        assert_eq!(now, expected);
        assert_eq!(ground.ask("SELECT slug FROM t WHERE k = 'a'").await, "acme");
        let others = |dump: &str| dump.split_once("bolt").map(|(_, others)| others.to_owned());
        let after = ground.dump().await;
        assert_eq!(others(&after), others(&before));

        assert!(!ground.swap(&target, &old, [b"newer", b"newer"]).await.unwrap(), "it is not as it was");
        assert_eq!(ground.dump().await, after);
        assert!(ground.swap(&target, &now, [b"new d", b"new e"]).await.unwrap(), "to what it is");
    }
}

#[tokio::test]
async fn a_tenant_that_held_nothing_is_swapped_too() {
    for ground in Ground::both_with_tenants().await {
        let target = ground.target().await;
        for key in ["b", "c"] {
            let old = ground.tenant(&target, key).await;
            assert!(ground.swap(&target, &old, [b"new", b"new"]).await.unwrap());
            assert!(!ground.swap(&target, &old, [b"newer", b"newer"]).await.unwrap());
            let now = ground.tenant(&target, key).await;
            assert_eq!((now.machine, now.cells), (text("m-new"), vec![Some(b"new".to_vec()); 2]));
        }
        let old = ground.tenant(&target, "d").await;
        assert!(ground.swap(&target, &old, [b"new", b""]).await.unwrap());
        let now = ground.tenant(&target, "d").await;
        assert_eq!(now.cells, [Some(b"new".to_vec()), None], "no bytes: the column is left");
        assert_eq!(
            ground.ask("SELECT CASE WHEN r IS NULL THEN 'left' END FROM t WHERE k = 'd'").await,
            "left"
        );
    }
}

#[tokio::test]
async fn whatever_somebody_else_changed_is_not_overwritten() {
    for ground in Ground::both_with_tenants().await {
        let target = ground.target().await;
        for change in [
            "UPDATE t SET fly_app = 'theirs'",
            "UPDATE t SET fly_machine_id = 'theirs'",
            "UPDATE t SET fly_machine_id = upper(fly_machine_id)",
            "UPDATE t SET fly_machine_id = fly_machine_id || ' '",
            "UPDATE t SET fly_machine_id = NULL",
            "UPDATE t SET fly_region = 'theirs'",
            "UPDATE t SET neon_project_id = 'theirs'",
            "UPDATE t SET neon_branch_id = 'theirs'",
            "UPDATE t SET d = <d2>",
            "UPDATE t SET d = NULL",
            "UPDATE t SET r = <e2>",
            "UPDATE t SET r = <>",
        ] {
            let old = ground.tenant(&target, "a").await;
            ground.execute(&ground.spelled(&format!("{change} WHERE k = 'a'"))).await;
            let before = ground.dump().await;
            assert!(!ground.swap(&target, &old, [b"new", b"new"]).await.unwrap(), "{change}");
            assert_eq!(ground.dump().await, before, "{change}");
            ground.execute(&ground.spelled(&format!("DROP TABLE t; {TENANTS}"))).await;
        }
        let target = ground.target().await;
        let old = ground.tenant(&target, "b").await;
        for column in ["fly_app", "fly_machine_id", "fly_region", "neon_project_id", "neon_branch_id"] {
            ground.execute(&format!("UPDATE t SET {column} = 'theirs' WHERE k = 'b'")).await;
            assert!(!ground.swap(&target, &old, [b"new", b"new"]).await.unwrap(), "{column}");
            ground.execute(&format!("UPDATE t SET {column} = NULL WHERE k = 'b'")).await;
        }
        let old = ground.tenant(&target, "a").await;
        ground.execute("UPDATE t SET status = 'theirs', plan = 99, slug = 'theirs' WHERE k = 'a'").await;
        assert!(ground.swap(&target, &old, [b"new", b"new"]).await.unwrap());
        let now = ground.tenant(&target, "a").await;
        assert_eq!((now.status, now.rank), (text("theirs"), text("99")), "only read");

        let old = ground.tenant(&target, "e").await;
        ground.execute("DELETE FROM t WHERE k = 'e'").await;
        let before = ground.dump().await;
        assert!(!ground.swap(&target, &old, [b"new", b"new"]).await.unwrap(), "the row is gone");
        assert_eq!(ground.dump().await, before);
    }
}

#[tokio::test]
async fn a_swap_waits_for_another_writer_and_sees_what_he_wrote() {
    let ground = Ground::on_postgres().await;
    ground.execute(&ground.spelled(TENANTS)).await;
    let On::Postgres { pool, .. } = &ground.on else { unreachable!("it was made so") };
    let target = ground.target().await;
    let old = ground.tenant(&target, "a").await;
    let mut other = pool.begin().await.unwrap();
    sqlx::query("UPDATE t SET neon_branch_id = 'theirs' WHERE k = 'a'").execute(&mut *other).await.unwrap();
    let release = async {
        let waiting = "SELECT count(*)::text FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                       WHERE NOT l.granted AND a.datname = current_database()";
        while ground.ask(waiting).await == "0" {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        other.commit().await.unwrap();
    };
    let (swapped, ()) = tokio::join!(ground.swap(&target, &old, [b"new", b"new"]), release);
    assert!(!swapped.unwrap());
    let now = ground.tenant(&target, "a").await;
    assert_eq!(now, TenantRow { branch: text("theirs"), ..old });
}

#[tokio::test]
async fn a_trigger_that_undoes_the_swap_is_noticed_and_nothing_is_written() {
    let postgres = |time: &str, body: &str| {
        format!(
            "CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$; \
             CREATE TRIGGER x {time} UPDATE ON t FOR EACH ROW EXECUTE FUNCTION undo()"
        )
    };
    let again = |set: &str| {
        format!("IF pg_trigger_depth() = 1 THEN UPDATE t SET {set} WHERE k = OLD.k; END IF; RETURN NULL;")
    };
    let on_postgres = [
        (postgres("BEFORE", "RETURN NULL;"), "fly_machine_id"),
        (postgres("BEFORE", "NEW.neon_branch_id = OLD.neon_branch_id; RETURN NEW;"), "neon_branch_id"),
        (postgres("BEFORE", "NEW.fly_region = 'theirs'; RETURN NEW;"), "fly_region"),
        (postgres("AFTER", &again("r = OLD.r")), "r"),
        (postgres("AFTER", "DELETE FROM t WHERE k = OLD.k; RETURN NULL;"), "fly_machine_id"),
    ];
    let sqlite = |time: &str, body: &str| format!("CREATE TRIGGER x {time} UPDATE ON t BEGIN {body}; END");
    let on_sqlite = [
        (sqlite("BEFORE", "SELECT RAISE(IGNORE)"), "fly_machine_id"),
        (
            sqlite("AFTER", "UPDATE t SET neon_branch_id = OLD.neon_branch_id WHERE k = OLD.k"),
            "neon_branch_id",
        ),
        (sqlite("AFTER", "UPDATE t SET fly_region = 'theirs' WHERE k = OLD.k"), "fly_region"),
        (sqlite("AFTER", "UPDATE t SET r = OLD.r WHERE k = OLD.k"), "r"),
        (sqlite("AFTER", "DELETE FROM t WHERE k = OLD.k"), "fly_machine_id"),
    ];
    for ground in Ground::both_with_tenants().await {
        let target = ground.target().await;
        for (trigger, column) in if ground.is_postgres() { &on_postgres } else { &on_sqlite } {
            ground.execute(trigger).await;
            let (old, before) = (ground.tenant(&target, "a").await, ground.dump().await);
            let error = ground.swap(&target, &old, [b"new", b"new"]).await.unwrap_err();
            let undone =
                matches!(&error, StoreError::Undone { row, column: found } if row == "a" && found == column);
            assert!(undone, "{trigger}: {error}");
            assert_eq!(ground.dump().await, before, "{trigger}");
            let drop = if ground.is_postgres() { "DROP FUNCTION undo CASCADE" } else { "DROP TRIGGER x" };
            ground.execute(drop).await;
        }
        let other = if ground.is_postgres() {
            postgres("BEFORE", "NEW.slug = 'touched'; RETURN NEW;")
        } else {
            sqlite("AFTER", "UPDATE t SET slug = 'touched' WHERE k = OLD.k")
        };
        ground.execute(&other).await;
        let old = ground.tenant(&target, "a").await;
        assert!(ground.swap(&target, &old, [b"new", b"new"]).await.unwrap(), "one that does something else");
        assert_eq!(ground.ask("SELECT slug FROM t WHERE k = 'a'").await, "touched");
    }
}

#[tokio::test]
async fn a_fence_refuses_a_swap_that_is_not_under_its_key() {
    for ground in Ground::both_with_tenants().await {
        let target = ground.target().await;
        ground.store.register(&target).await.unwrap();
        ground.store.raise_fence(&target, FenceMode::Enforce, FenceRule::Wrapped).await.unwrap();
        let (old, before) = (ground.tenant(&target, "a").await, ground.dump().await);
        let error = ground.swap(&target, &old, [b"new", b"new"]).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        if ground.is_postgres() {
            assert_eq!(error.code(), Some("RK001"));
        }
        assert_eq!(ground.dump().await, before);
        let wrapped = [&[0x02, 0x00, 0x01][..], &[7; 40]].concat();
        assert!(ground.swap(&target, &old, [&wrapped, &wrapped]).await.unwrap());
    }
}
