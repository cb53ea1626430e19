//! A commit replaces what was opened and nothing else.

use super::*;

#[tokio::test]
async fn a_batch_replaces_the_opened_values_and_keeps_their_types() {
    for table in TABLES {
        let fixture = Fixture::with_rows(table, 40).await;
        fixture.execute("UPDATE t SET a = NULL WHERE k = (SELECT min(k) FROM t)").await;
        let target = fixture.target().await;
        let types = "SELECT group_concat(typeof(a) || typeof(b), ' ') FROM (SELECT * FROM t ORDER BY k)";
        let before = fixture.ask(types).await;
        let (run, lease) = fixture.lease(&target).await;
        let page = fixture.page(&target).await;
        commit_all(&fixture, &target, &lease, &page).await;
        let after = fixture.page(&target).await;
        let new = rekeyed(&page);
        for row in 0..40 {
            assert_eq!(after.cells.row(row).collect::<Vec<_>>(), new.row(row).collect::<Vec<_>>(), "{table}");
        }
        assert_eq!(fixture.ask(types).await, before);
        let tally = fixture.store.tally(&run.run_id, None).await.unwrap();
        assert_eq!((tally.scanned, tally.rekeyed, tally.empty, tally.conflicts), (40, 79, 1, 0));
        assert!(tally.sums());
        assert!(matches!(fixture.store.claim(&run, "w", target.key_kind).await.unwrap(), Claim::SweepDone));
    }
}

#[tokio::test]
async fn a_cell_that_somebody_else_changed_is_left_and_its_neighbours_are_swapped() {
    for table in TABLES {
        let fixture = Fixture::with_rows(table, 6).await;
        let target = fixture.target().await;
        let (run, lease) = fixture.lease(&target).await;
        let page = fixture.page(&target).await;
        let text = |row: usize| page.keys[row].to_string().replace('\'', "\'\'");
        // Row 0: one column. Row 1: both. Row 2: set to NULL. Row 3: to nothing. Row 4: gone.
        for (row, change) in [
            (0, "UPDATE t SET b = 'theirs'"),
            (1, "UPDATE t SET a = 'theirs', b = 'theirs'"),
            (2, "UPDATE t SET a = NULL"),
            (3, "UPDATE t SET a = ''"),
            (4, "DELETE FROM t"),
        ] {
            assert_eq!(fixture.execute(&format!("{change} WHERE k = '{}'", text(row))).await, 1);
        }
        let (mut unsettled, fenced) = commit(&fixture.store, &target, &lease, &page, 0..6).await.unwrap();
        assert!(!fenced);
        unsettled.sort_by_key(|cell| (cell.row, cell.column));
        let found: Vec<_> =
            unsettled.iter().map(|cell| (cell.row, cell.column, cell.now.as_deref())).collect();
        let theirs: Option<&[u8]> = Some(b"theirs");
        assert_eq!(found, [(0, 1, theirs), (1, 0, theirs), (1, 1, theirs), (2, 0, None), (3, 0, None)]);

        let after = fixture.page(&target).await;
        let new = rekeyed(&page);
        assert_eq!(after.keys, [&page.keys[..4], &page.keys[5..]].concat());
        assert_eq!(after.cells.row(0).collect::<Vec<_>>(), [new.at(0, 0), theirs]);
        assert_eq!(after.cells.row(1).collect::<Vec<_>>(), [theirs, theirs]);
        assert_eq!(after.cells.row(2).collect::<Vec<_>>(), [None, new.at(2, 1)]);
        assert_eq!(after.cells.row(3).collect::<Vec<_>>(), [None, new.at(3, 1)]);
        assert_eq!(after.cells.row(4).collect::<Vec<_>>(), [new.at(5, 0), new.at(5, 1)]);
        let tally = fixture.store.tally(&run.run_id, None).await.unwrap();
        assert_eq!((tally.rekeyed, tally.vanished, tally.conflicts, tally.deferred), (5, 2, 5, 5), "{table}");
        assert!(tally.sums());
    }
}

#[tokio::test]
async fn one_column_alone_is_a_target_too() {
    let fixture = Fixture::with_rows(TABLES[1], 5).await;
    let target = fixture.store.inspect(&name(&["b"])).await.unwrap().target.unwrap();
    let (_, lease) = fixture.lease(&target).await;
    let page = fixture.page(&target).await;
    assert_eq!(fixture.execute("UPDATE t SET a = NULL; UPDATE t SET b = 'theirs' WHERE k = 0").await, 6);
    let (unsettled, _) = commit(&fixture.store, &target, &lease, &page, 1..5).await.unwrap();
    assert_eq!(unsettled.len(), 1);
    assert_eq!(page.keys[unsettled[0].row], RowKey::Integer(0));
    assert_eq!(
        fixture.ask("SELECT group_concat(substr(b, 1, 3)) FROM t WHERE a IS NULL").await,
        "'old,new,new,the,new'"
    );
}

#[tokio::test]
async fn text_is_compared_by_its_bytes_under_any_collation() {
    let fixture = Fixture::with_rows(
        "CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT COLLATE NOCASE, b TEXT COLLATE RTRIM)",
        1,
    )
    .await;
    let target = fixture.target().await;
    let (_, lease) = fixture.lease(&target).await;
    let page = fixture.page(&target).await;
    fixture.execute("UPDATE t SET a = upper(a), b = b || ' '").await;
    assert_eq!(
        fixture.ask("SELECT a = 'old 0 0 ' AND b = 'old 0 1' FROM t").await,
        "1",
        "equal to their collations"
    );
    let (unsettled, _) = commit(&fixture.store, &target, &lease, &page, 0..1).await.unwrap();
    assert_eq!(unsettled.len(), 2);
    assert_eq!(fixture.ask("SELECT a || b FROM t").await, "'OLD 0 0 old 0 1  '");
}

#[tokio::test]
async fn a_row_whose_key_changed_only_in_case_is_another_row() {
    let fixture = Fixture::new("CREATE TABLE t (k TEXT PRIMARY KEY COLLATE NOCASE, a BLOB, b BLOB)").await;
    fixture.execute("INSERT INTO t VALUES ('acme', 'old', 'old'), ('b', 'old', 'old')").await;
    let target = fixture.target().await;
    let (run, lease) = fixture.lease(&target).await;
    let page = fixture.page(&target).await;
    fixture.execute("UPDATE t SET k = 'Acme' WHERE k = 'acme'").await;
    let (unsettled, _) = commit(&fixture.store, &target, &lease, &page, 0..2).await.unwrap();
    assert_eq!(unsettled.len(), 0);
    assert_eq!(fixture.ask("SELECT group_concat(k || a || b) FROM t").await, "'Acmeoldold,bnew!new!'");
    let tally = fixture.store.tally(&run.run_id, None).await.unwrap();
    assert_eq!((tally.rekeyed, tally.vanished), (2, 2));
}

#[tokio::test]
async fn a_trigger_that_undoes_the_update_stops_the_batch_with_nothing_written() {
    let undoing = [
        "CREATE TRIGGER x AFTER UPDATE OF b ON t BEGIN UPDATE t SET b = OLD.b WHERE k = OLD.k; END",
        "CREATE TRIGGER x BEFORE UPDATE OF b ON t BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER x BEFORE UPDATE OF b ON t WHEN OLD.k = 1 BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER x AFTER UPDATE OF b ON t WHEN OLD.k = 1 BEGIN UPDATE t SET b = OLD.b WHERE k = 1; END",
    ];
    for trigger in undoing {
        let fixture = Fixture::with_rows(TABLES[0], 6).await;
        fixture.execute(trigger).await;
        let target = fixture.target().await;
        let (run, lease) = fixture.lease(&target).await;
        let page = fixture.page(&target).await;
        let error = commit(&fixture.store, &target, &lease, &page, 4..6).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the table undoes the update: row 1, column b kept its old value",
            "{trigger}"
        );
        assert!(!error.is_transient());
        assert_eq!(
            fixture
                .ask(
                    "SELECT count(*) FROM t WHERE CAST(a AS text) LIKE 'old%' AND CAST(b AS text) LIKE 'old%'"
                )
                .await,
            "6"
        );
        assert_eq!(fixture.store.tally(&run.run_id, None).await.unwrap(), Tally::default());
    }
}

#[tokio::test]
async fn a_trigger_that_does_something_else_is_no_obstacle() {
    let fixture =
        Fixture::with_rows("CREATE TABLE t (k INTEGER PRIMARY KEY, a BLOB, b BLOB, touched)", 6).await;
    fixture
        .execute("CREATE TRIGGER x AFTER UPDATE ON t BEGIN UPDATE t SET touched = 1 WHERE k = OLD.k; END")
        .await;
    let target = fixture.target().await;
    assert!(target.has_triggers);
    let (_, lease) = fixture.lease(&target).await;
    let page = fixture.page(&target).await;
    commit_all(&fixture, &target, &lease, &page).await;
    assert_eq!(fixture.ask("SELECT sum(touched) FROM t WHERE CAST(a AS text) LIKE 'new%'").await, "6");
}

#[tokio::test]
async fn a_value_of_a_mebibyte_is_swapped_and_one_above_the_limit_is_only_seen() {
    let fixture = Fixture::new(TABLES[0]).await;
    fixture
        .execute("INSERT INTO t VALUES (1, randomblob(1048576), zeroblob(1048577)), (2, 'old', 'old')")
        .await;
    let target = fixture.target().await;
    let (_, lease) = fixture.lease(&target).await;
    let page = fixture.page(&target).await;
    assert_eq!(page.cells.at(0, 0).unwrap().len(), 1 << 20);
    assert_eq!(page.cells.at(0, 1), Some(&b""[..]));
    let mut new = Cells::new(2);
    let value = vec![7; 1 << 20];
    [Some(&value[..]), None, Some(b"new"), None].into_iter().for_each(|cell| new.push(cell));
    let checkpoint = Checkpoint { cursor: page.keys.last(), done: true, tally: Tally::default() };
    let batch = Batch {
        keys: &page.keys,
        rowids: &page.rowids,
        max_value: 1 << 20,
        old: &page.cells,
        new: &new,
        rows: 0..2,
        quarantined: &[],
        checkpoint,
    };
    let committed = fixture.store.commit(&target, &lease, batch).await.unwrap();
    assert!(matches!(committed, Committed::Done { unsettled, .. } if unsettled.is_empty()));
    let after = fixture.page(&target).await;
    assert_eq!(after.cells.at(0, 0), Some(&value[..]));
    assert_eq!(fixture.ask("SELECT group_concat(length(b)) FROM t").await, "'1048577,3'");
}

#[tokio::test]
async fn a_batch_that_was_lost_is_missed_by_the_next() {
    for table in TABLES {
        let fixture = Fixture::with_rows(table, 4).await;
        let target = fixture.target().await;
        let (run, lease) = fixture.lease(&target).await;
        let page = fixture.page(&target).await;
        let first = commit(&fixture.store, &target, &lease, &page, 0..2).await.unwrap();
        assert!(!first.1, "{table}");
        let after = lease.moved_to(Some(&page.keys[1]));

        fixture.execute("UPDATE reseal_shards SET cursor_key = NULL").await;
        let tally = fixture.store.tally(&run.run_id, None).await.unwrap();
        let second = commit(&fixture.store, &target, &after, &page, 2..4).await.unwrap();
        assert!(second.1, "{table}: the cursor is not where the first batch left it");
        assert_eq!(fixture.store.tally(&run.run_id, None).await.unwrap(), tally);
        let cells = fixture.page(&target).await.cells;
        assert_eq!(cells.row(3).collect::<Vec<_>>(), page.cells.row(3).collect::<Vec<_>>(), "{table}");

        commit(&fixture.store, &target, &lease, &page, 0..2).await.unwrap();
        let second = commit(&fixture.store, &target, &after, &page, 2..4).await.unwrap();
        assert!(second.0.is_empty() && !second.1, "{table}");
    }
}
