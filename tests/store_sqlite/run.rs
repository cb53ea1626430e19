//! Runs, shards and fences.

use super::*;

#[tokio::test]
async fn a_worker_whose_lease_ran_out_commits_nothing() {
    let fixture = Fixture::with_rows(TABLES[0], 4).await;
    let target = fixture.target().await;
    let (run, first) = fixture.lease(&target).await;
    let page = fixture.page(&target).await;
    commit(&fixture.store, &target, &first, &page, 0..1).await.unwrap();
    assert!(matches!(fixture.store.claim(&run, "w2", target.key_kind).await.unwrap(), Claim::Busy));
    assert!(fixture.store.renew(&first).await.unwrap());

    fixture.execute("UPDATE reseal_shards SET lease_until = lease_until - 20001").await;
    let second = leased(fixture.store.claim(&run, "w2", target.key_kind).await.unwrap());
    assert_eq!((second.fence, second.cursor.as_ref()), (first.fence + 1, Some(&page.keys[0])));
    let before = fixture.ask("SELECT group_concat(a || b) FROM t").await;
    let (unsettled, fenced) = commit(&fixture.store, &target, &first, &page, 1..4).await.unwrap();
    assert!(fenced && unsettled.is_empty());
    assert_eq!(fixture.ask("SELECT group_concat(a || b) FROM t").await, before);
    assert_eq!(fixture.store.tally(&run.run_id, None).await.unwrap().scanned, 1);
    assert!(!fixture.store.renew(&first).await.unwrap());
    fixture.store.release(&first).await.unwrap();
    assert!(matches!(fixture.store.claim(&run, "w3", target.key_kind).await.unwrap(), Claim::Busy));

    let (_, fenced) = commit(&fixture.store, &target, &second, &page, 1..3).await.unwrap();
    assert!(!fenced);
    fixture.store.release(&second).await.unwrap();
    let third = leased(fixture.store.claim(&run, "w3", target.key_kind).await.unwrap());
    assert_eq!(third.cursor.as_ref(), Some(&page.keys[2]));
    commit(&fixture.store, &target, &third, &page, 3..4).await.unwrap();
    let tally = fixture.store.tally(&run.run_id, Some(1)).await.unwrap();
    assert_eq!((tally.rekeyed, tally.scanned), (8, 4));
}

#[tokio::test]
async fn a_lease_from_before_the_clock_was_set_back_has_run_out() {
    let fixture = Fixture::with_rows(TABLES[0], 4).await;
    let target = fixture.target().await;
    let (run, first) = fixture.lease(&target).await;
    assert!(matches!(fixture.store.claim(&run, "w2", target.key_kind).await.unwrap(), Claim::Busy));
    fixture.execute("UPDATE reseal_shards SET lease_until = lease_until + 3600000").await;
    let second = leased(fixture.store.claim(&run, "w2", target.key_kind).await.unwrap());
    assert_eq!(second.fence, first.fence + 1);
    assert!(matches!(fixture.store.claim(&run, "w3", target.key_kind).await.unwrap(), Claim::Busy));
    let page = fixture.page(&target).await;
    let (_, fenced) = commit(&fixture.store, &target, &first, &page, 0..1).await.unwrap();
    assert!(fenced, "whoever held it before the clock was set back");
}

#[tokio::test]
async fn no_two_claims_share_a_shard() {
    let fixture = Fixture::with_rows(TABLES[3], 200).await;
    let target = fixture.target().await;
    let points = fixture.store.split_points(&target, 200, 20).await.unwrap();
    let bounds = || std::iter::once(None).chain(points.iter().cloned().map(Some));
    let ranges = bounds()
        .zip(bounds().skip(1).chain([None]))
        .map(|(lo, hi)| Span::Keys(KeyRange { lo, hi }))
        .collect();
    let run = fixture.run(&target, ranges).await;
    let workers = (0..4).map(|worker| {
        let (path, run, kind) = (fixture.path.clone(), run.clone(), target.key_kind);
        tokio::spawn(async move {
            let store = Sqlite::open(&path).await.unwrap();
            let mut shards = Vec::new();
            while let Claim::Leased(lease) = store.claim(&run, &worker.to_string(), kind).await.unwrap() {
                assert_eq!(lease.fence, 1);
                shards.push((lease.shard, lease.span));
            }
            shards
        })
    });
    let mut claimed = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        claimed.extend(worker.await.unwrap());
    }
    claimed.sort_by_key(|(shard, _)| *shard);
    assert!(claimed.iter().map(|(shard, _)| *shard).eq(1..=20));
    let mut rows = 0;
    for (_, range) in claimed {
        rows += fixture.store.read_page(&target, &range, None, None, LIMITS).await.unwrap().keys.len();
    }
    assert_eq!(rows, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_on_connections_of_their_own_and_a_busy_writer_lose_nothing() {
    const ROWS: u32 = 3000;
    let fixture = Fixture::with_rows(TABLES[2], ROWS).await;
    let target = fixture.target().await;
    let points = fixture.store.split_points(&target, ROWS.into(), 6).await.unwrap();
    let bounds = || std::iter::once(None).chain(points.iter().cloned().map(Some));
    let ranges = bounds()
        .zip(bounds().skip(1).chain([None]))
        .map(|(lo, hi)| Span::Keys(KeyRange { lo, hi }))
        .collect();
    let run = fixture.run(&target, ranges).await;
    let worker = async |name: &str| {
        let store = Sqlite::open(&fixture.path).await.unwrap();
        let limits = PageLimits { rows: 40, ..LIMITS };
        let mut conflicts = 0;
        while let Claim::Leased(mut lease) = store.claim(&run, name, target.key_kind).await.unwrap() {
            loop {
                let after = lease.cursor.as_ref();
                let page = store.read_page(&target, &lease.span, after, None, limits).await.unwrap();
                let (unsettled, fenced) =
                    commit(&store, &target, &lease, &page, 0..page.keys.len()).await.unwrap();
                assert!(!fenced && unsettled.iter().all(|cell| cell.now.as_deref() == Some(b"theirs")));
                conflicts += unsettled.len();
                *lease = lease.moved_to(page.keys.last());
                if page.last {
                    break;
                }
            }
        }
        conflicts
    };
    let writer = async {
        let mut conn = fixture.raw().await;
        let mut written = 0;
        for row in (0..ROWS).step_by(7) {
            let write = sqlx::query("UPDATE t SET a = CAST('theirs' AS blob) WHERE k = ?");
            written += write
                .bind(key(KeyKind::Text, row).to_string())
                .execute(&mut conn)
                .await
                .unwrap()
                .rows_affected();
        }
        written
    };
    let (one, two, written) = tokio::join!(worker("one"), worker("two"), writer);
    let page = fixture
        .store
        .read_page(&target, &Span::ALL, None, None, PageLimits { rows: 5000, ..LIMITS })
        .await
        .unwrap();
    assert_eq!(page.keys.len(), ROWS as usize);
    let mut theirs = 0;
    for row in 0..ROWS {
        let at = row_of(&page, &key(KeyKind::Text, row));
        let (a, b) = (page.cells.at(at, 0).unwrap(), page.cells.at(at, 1).unwrap());
        let ours = |column| [b"new", &old(row, column)[3..], b"!"].concat();
        assert_eq!(b, ours(1));
        // Theirs came after our read and stayed, or before it and was taken for a value like any other.
        match a {
            b"theirs" => theirs += 1,
            b"newirs!" => theirs += 1,
            a => assert_eq!((a, row % 7 > 0), (&ours(0)[..], true), "row {row}: their write is lost"),
        }
    }
    assert_eq!(theirs, written);
    let tally = fixture.store.tally(&run.run_id, None).await.unwrap();
    assert_eq!(tally.conflicts, i64::try_from(one + two).unwrap());
    assert_eq!((tally.scanned, tally.rekeyed), (3000, 6000 - tally.conflicts));
    assert!(tally.sums());
}

#[tokio::test]
async fn a_target_has_one_open_run_whose_states_move_once() {
    let fixture = Fixture::with_rows(TABLES[0], 3).await;
    let target = fixture.target().await;
    let run = fixture.run(&target, vec![Span::ALL]).await;
    let again = fixture.run(&target, vec![Span::ALL, Span::ALL]).await;
    assert_eq!((&run.run_id, run.state, run.sweep), (&again.run_id, RunState::Running, 1));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert!(now.abs_diff(run.created_ms.try_into().unwrap()) < 60_000, "milliseconds since 1970");

    assert!(fixture.store.next_sweep(&run, 0, &[Span::ALL]).await.unwrap());
    assert!(!fixture.store.next_sweep(&run, 0, &[Span::ALL]).await.unwrap(), "this sweep is over");
    assert!(!fixture.store.move_run(&run, RunState::Paused).await.unwrap(), "this sweep is over");
    let run = fixture.store.run(&run.run_id).await.unwrap();
    assert_eq!(run.sweep, 2);
    assert!(fixture.store.move_run(&run, RunState::Complete).await.unwrap());
    assert!(!fixture.store.move_run(&run, RunState::Failed).await.unwrap());
    assert!(fixture.store.open_run("t").await.unwrap().is_none());
    let latest = fixture.store.latest_run("t").await.unwrap().unwrap();
    assert_eq!((latest.run_id.as_str(), latest.state), (run.run_id.as_str(), RunState::Complete));
    assert!(latest.finished_ms >= Some(latest.created_ms));
    let error = fixture.store.run("none").await.unwrap_err();
    assert_eq!(error.to_string(), "there is no run none");

    let other = Target { columns: target.columns[..1].to_vec(), ..target };
    let error = fixture.store.register(&other).await.unwrap_err();
    assert!(matches!(error, StoreError::OtherTarget { name } if name == "t"));
}
