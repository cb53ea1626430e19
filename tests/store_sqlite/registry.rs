//! The registry of data keys and the quarantine.

use super::*;

fn data_key(id: u8, state: DataKeyState) -> WrappedDataKey {
    WrappedDataKey {
        key_id: [id; 16],
        wrap_id: Uuid::from_bytes([id; 16]),
        purpose: "t".to_owned(),
        kms: "local".to_owned(),
        wrapped: if state == DataKeyState::Destroyed { Vec::new() } else { vec![id; 40] },
        state,
        created_ms: 0,
    }
}

/// A batch that quarantines and swaps nothing.
fn without_rows<'a>(
    none: &'a Cells,
    quarantined: &'a [Quarantined],
    checkpoint: Checkpoint<'a>,
) -> Batch<'a> {
    Batch {
        keys: &[],
        rowids: &[],
        max_value: 1 << 20,
        old: none,
        new: none,
        rows: 0..0,
        quarantined,
        checkpoint,
    }
}

#[tokio::test]
async fn a_new_active_data_key_sets_the_old_one_draining() {
    let fixture = Fixture::new(TABLES[0]).await;
    fixture.store.add_data_key(&data_key(1, DataKeyState::Active)).await.unwrap();
    fixture.store.add_data_key(&data_key(2, DataKeyState::Destroyed)).await.unwrap();
    let elsewhere = WrappedDataKey { purpose: "other".to_owned(), ..data_key(3, DataKeyState::Active) };
    fixture.store.add_data_key(&elsewhere).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    fixture.store.add_data_key(&data_key(4, DataKeyState::Active)).await.unwrap();
    let keys = fixture.store.data_keys(Some("t")).await.unwrap();
    let mut states: Vec<_> = keys.iter().map(|key| (key.key_id[0], key.state, key.wrapped.len())).collect();
    assert_eq!(states[0], (4, DataKeyState::Active, 40), "newest first");
    states.sort_by_key(|(id, ..)| *id);
    assert_eq!(states[..2], [(1, DataKeyState::Draining, 40), (2, DataKeyState::Destroyed, 0)]);
    assert_eq!(keys[0].wrap_id, Uuid::from_bytes([4; 16]));
    assert_eq!(fixture.store.data_keys(None).await.unwrap().len(), 4);

    let error = fixture.store.add_data_key(&data_key(4, DataKeyState::Draining)).await.unwrap_err();
    assert!(!error.is_transient());
    assert_eq!(fixture.store.data_keys(Some("t")).await.unwrap()[0].state, DataKeyState::Active);
}

#[tokio::test]
async fn no_statement_deletes_a_data_key() {
    let fixture = Fixture::new(TABLES[0]).await;
    fixture.store.add_data_key(&data_key(1, DataKeyState::Active)).await.unwrap();
    let row = "INSERT OR REPLACE INTO reseal_data_keys (key_id, wrap_id, purpose, kms, wrapped, state)";
    for (sql, reason) in [
        ("DELETE FROM reseal_data_keys".to_owned(), "rows of reseal_data_keys are never deleted"),
        (
            format!("{row} SELECT key_id, 'x', 'x', kms, wrapped, state FROM reseal_data_keys"),
            "is there already",
        ),
        (
            format!("{row} SELECT zeroblob(16), wrap_id, 'x', kms, wrapped, state FROM reseal_data_keys"),
            "is there already",
        ),
        (
            format!("{row} SELECT zeroblob(16), 'x', purpose, kms, wrapped, state FROM reseal_data_keys"),
            "is there already",
        ),
    ] {
        let error = fixture.raw().await.execute(AssertSqlSafe(sql.clone())).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{sql}: {error}");
    }
    assert_eq!(fixture.store.data_keys(None).await.unwrap()[0].wrapped, [1; 40]);
}

fn quarantined(row: &str, hash: u8) -> Quarantined {
    Quarantined {
        row_key: row.to_owned(),
        column: "a".to_owned(),
        reason: "unopened".to_owned(),
        sha256: [hash; 32],
        first_seen_ms: 0,
        last_seen_ms: 0,
    }
}

#[tokio::test]
async fn a_quarantined_cell_counts_once() {
    let fixture = Fixture::with_rows(TABLES[0], 3).await;
    let target = fixture.target().await;
    let (mut run, mut lease) = fixture.lease(&target).await;
    let cells = Cells::new(2);
    let commit = async |lease: &Lease, cells_in: &[Quarantined]| {
        let count = i64::try_from(cells_in.len()).unwrap();
        let tally = Tally { quarantined: count, total: count, ..Tally::default() };
        let checkpoint = Checkpoint { cursor: None, done: true, tally };
        let batch = without_rows(&cells, cells_in, checkpoint);
        fixture.store.commit(&target, lease, batch).await.unwrap()
    };
    commit(&lease, &[quarantined("-3", 1), quarantined("-2", 1)]).await;
    let first = fixture.store.quarantine("t", None, 10).await.unwrap();
    for (sweep, cell, counted) in
        [(2, quarantined("-3", 1), 0), (3, quarantined("-3", 2), 1), (4, quarantined("0", 1), 1)]
    {
        assert!(fixture.store.next_sweep(&run, 0, &[Span::ALL]).await.unwrap());
        run = fixture.store.run(&run.run_id).await.unwrap();
        lease = leased(fixture.store.claim(&run, "w", target.key_kind).await.unwrap());
        commit(&lease, &[cell]).await;
        let tally = fixture.store.tally(&run.run_id, Some(sweep)).await.unwrap();
        assert_eq!((tally.quarantined, tally.total), (counted, counted), "sweep {sweep}");
    }
    assert_eq!(fixture.store.quarantine_size("t").await.unwrap(), 3);
    let all = fixture.store.quarantine("t", None, 10).await.unwrap();
    assert!(all.iter().map(|cell| cell.row_key.as_str()).eq(["-2", "-3", "0"]));
    assert_eq!((all[0].first_seen_ms, all[0].sha256), (first[0].first_seen_ms, [1; 32]));
    assert!(all[0].first_seen_ms > 1_600_000_000_000 && all[1].sha256 == [2; 32]);
    let page = fixture.store.quarantine("t", Some(("-2", "a")), 1).await.unwrap();
    assert_eq!(page[0].row_key, "-3");
}

#[tokio::test]
async fn a_quarantined_cell_is_settled_only_while_it_holds_what_was_opened() {
    for table in [TABLES[0], TABLES[2]] {
        let fixture = Fixture::with_rows(table, 2).await;
        let target = fixture.target().await;
        let (_, lease) = fixture.lease(&target).await;
        let keys = [0, 1].map(|row| key(target.key_kind, row));
        let cells = Cells::new(2);
        let records = keys.each_ref().map(|key| quarantined(&key.to_string(), 1));
        let checkpoint = Checkpoint { cursor: None, done: false, tally: Tally::default() };
        let batch = without_rows(&cells, &records, checkpoint);
        fixture.store.commit(&target, &lease, batch).await.unwrap();

        let settle_record = async |key: &RowKey, hash, swap| {
            fixture.store.settle_quarantined(&target, key, 0, &[hash; 32], swap).await.unwrap()
        };
        let settle = async |key: &RowKey, swap| settle_record(key, 1, swap).await;
        let opened = old(0, 0);
        assert!(!settle(&keys[0], Some((b"other", b"new"))).await);
        assert!(!settle(&key(target.key_kind, 99), Some((b"other", b"new"))).await);
        // Somebody recorded other bytes since.
        assert!(!settle_record(&keys[0], 2, Some((&opened, b"new"))).await);
        assert!(!settle_record(&keys[1], 2, None).await);
        assert_eq!(fixture.store.quarantine_size("t").await.unwrap(), 2);
        assert!(settle(&keys[0], Some((&opened, b"new"))).await);
        assert!(settle(&keys[1], None).await);
        assert_eq!(fixture.store.quarantine_size("t").await.unwrap(), 0);
        let page = fixture.page(&target).await;
        let at = row_of(&page, &keys[0]);
        assert_eq!(page.cells.row(at).collect::<Vec<_>>(), [Some(&b"new"[..]), Some(&old(0, 1)[..])]);
        assert_eq!(page.cells.at(row_of(&page, &keys[1]), 0), Some(&old(1, 0)[..]));
    }
}
