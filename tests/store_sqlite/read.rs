//! Pages, samples, snapshots and fingerprints.

use super::*;

#[tokio::test]
async fn pages_cover_every_row_once_in_key_order_under_both_limits() {
    for table in TABLES {
        let fixture = Fixture::with_rows(table, 100).await;
        let target = fixture.target().await;
        let all = fixture.page(&target).await;
        assert_eq!((all.keys.len(), all.last), (100, true), "{table}");
        assert!(all.keys.is_sorted(), "{table}");
        for row in 0..100 {
            let at = row_of(&all, &key(target.key_kind, row));
            assert_eq!(
                all.cells.row(at).collect::<Vec<_>>(),
                [0, 1].map(|c| Some(old(row, c))).each_ref().map(|c| c.as_deref())
            );
        }
        for (rows, bytes, at_most) in
            [(7, 1 << 20, 7), (1000, 120, 6), (1000, 1, 1), (100, 1 << 20, 100), (1, 1, 1)]
        {
            let limits = PageLimits { rows, bytes, ..LIMITS };
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page =
                    fixture.store.read_page(&target, &Span::ALL, after.as_ref(), None, limits).await.unwrap();
                assert!(
                    page.keys.len() <= at_most && (page.cells.byte_len() <= bytes || page.keys.len() == 1)
                );
                assert!(!page.keys.is_empty() || page.last, "a page that is not the last makes progress");
                seen.extend(page.keys);
                after = seen.last().cloned();
                if page.last {
                    break;
                }
            }
            assert_eq!(seen, all.keys, "{table} {rows} {bytes}");
        }
        let range = Span::Keys(KeyRange { lo: Some(all.keys[9].clone()), hi: Some(all.keys[19].clone()) });
        let part = fixture.store.read_page(&target, &range, None, None, LIMITS).await.unwrap();
        assert_eq!(part.keys, all.keys[10..20]);
        let part = fixture.store.read_page(&target, &range, Some(&all.keys[14]), None, LIMITS).await.unwrap();
        assert_eq!(part.keys, all.keys[15..20]);
    }
}

#[tokio::test]
async fn cells_read_as_bytes_whatever_their_storage_class() {
    let fixture = Fixture::new("CREATE TABLE t (k INTEGER PRIMARY KEY, a BLOB, b TEXT)").await;
    fixture
        .execute(
            "INSERT INTO t VALUES (1, NULL, ''), (2, x'', NULL), (3, x'00ff00c3', 'é'), (4, 'text', x'62'), \
             (5, 42, 1.5), (6, zeroblob(11), CAST(x'fffe00' AS text)), (7, zeroblob(10), 'y')",
        )
        .await;
    let target = fixture.target().await;
    let limits = PageLimits { value: 10, ..LIMITS };
    let page = fixture.store.read_page(&target, &Span::ALL, None, None, limits).await.unwrap();
    let expected: [[Option<&[u8]>; 2]; 7] = [
        [None, None],
        [None, None],
        [Some(b"\0\xff\0\xc3"), Some("é".as_bytes())],
        [Some(b"text"), Some(b"b")],
        [Some(b"42"), Some(b"1.5")],
        [Some(b""), Some(b"\xff\xfe\0")],
        [Some(&[0; 10]), Some(b"y")],
    ];
    for (row, cells) in expected.iter().enumerate() {
        assert_eq!(page.cells.row(row).collect::<Vec<_>>(), cells, "row {}", row + 1);
    }
    let keys = [7, 3, 99].map(RowKey::Integer);
    let rows = fixture.store.read_rows(&target, &keys, limits).await.unwrap();
    assert_eq!(rows.keys, [3, 7].map(RowKey::Integer));
    assert_eq!(rows.cells.at(0, 1), Some("é".as_bytes()));
    assert!(fixture.store.read_rows(&target, &[], limits).await.unwrap().keys.is_empty());
}

#[tokio::test]
async fn samples_and_split_points_fit_tables_of_any_size() {
    for table in TABLES {
        for rows in [0_u32, 1, 2, 50] {
            let fixture = Fixture::with_rows(table, rows).await;
            let target = fixture.target().await;
            let count = fixture.store.count_rows(&target).await.unwrap();
            assert_eq!(count, u64::from(rows));
            let page = fixture.page(&target).await;
            assert!(page.last);
            let sample = fixture.store.sample(&target, 20, LIMITS).await.unwrap();
            assert_eq!(sample.keys.len(), usize::try_from(rows.min(20)).unwrap());
            assert!(sample.keys.iter().all(|key| page.keys.contains(key)));
            let points = fixture.store.split_points(&target, count, 4).await.unwrap();
            let expected: Vec<RowKey> = match rows {
                0 => Vec::new(),
                1 | 2 => page.keys.clone(),
                _ => [11, 23, 35].map(|at| page.keys[at].clone()).to_vec(),
            };
            assert_eq!(points, expected, "{table} {rows}");
            assert_eq!(fixture.store.split_points(&target, count, 1).await.unwrap(), []);
        }
    }
}

async fn snapshot(store: &Sqlite, target: &Target, limits: PageLimits) -> (u64, Vec<RowKey>) {
    let (pages, mut received) = tokio::sync::mpsc::channel::<Page>(1);
    let all = async {
        let mut keys = Vec::new();
        while let Some(page) = received.recv().await {
            keys.extend(page.keys);
        }
        keys
    };
    let (count, keys) = tokio::join!(store.snapshot(target, limits, pages), all);
    (count.unwrap(), keys)
}

#[tokio::test]
async fn a_snapshot_sends_every_row_once_and_counts_the_same() {
    for table in TABLES {
        let fixture = Fixture::with_rows(table, 60).await;
        let target = fixture.target().await;
        for limits in [LIMITS, PageLimits { rows: 7, ..LIMITS }, PageLimits { bytes: 1, ..LIMITS }] {
            let (count, mut keys) = snapshot(&fixture.store, &target, limits).await;
            keys.sort();
            assert_eq!((count, keys), (60, fixture.page(&target).await.keys), "{table}");
        }
        fixture.execute("DELETE FROM t").await;
        assert_eq!(snapshot(&fixture.store, &target, LIMITS).await, (0, Vec::new()));
    }
}

#[tokio::test]
async fn a_snapshot_does_not_see_what_is_written_while_it_is_read() {
    let fixture = Fixture::with_rows(TABLES[0], 10).await;
    let target = fixture.target().await;
    let (pages, mut received) = tokio::sync::mpsc::channel::<Page>(1);
    let read = async {
        let first = received.recv().await.unwrap();
        assert_eq!(first.keys.len(), 1);
        fixture
            .execute("DELETE FROM t WHERE k > 3; UPDATE t SET a = x'ff'; INSERT INTO t (k) VALUES (1000)")
            .await;
        let mut rows = 1;
        while let Some(page) = received.recv().await {
            assert_eq!(page.cells.at(0, 0).unwrap()[..3], *b"old");
            rows += page.keys.len();
        }
        rows
    };
    let (count, rows) =
        tokio::join!(fixture.store.snapshot(&target, PageLimits { rows: 1, ..LIMITS }, pages), read);
    assert_eq!((count.unwrap(), rows), (10, 10));
}

#[tokio::test]
async fn a_snapshot_sees_the_rows_that_a_damaged_index_hides() {
    let fixture = Fixture::with_rows("CREATE TABLE t (k TEXT PRIMARY KEY, a BLOB, b BLOB)", 30).await;
    let target = fixture.target().await;
    fixture
        .execute(
            "CREATE TABLE empty (x TEXT PRIMARY KEY); PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = \
             (SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_empty_1') \
             WHERE name = 'sqlite_autoindex_t_1'",
        )
        .await;
    let store = Sqlite::open(&fixture.path).await.unwrap();
    let swept = store.read_page(&target, &Span::ALL, None, None, LIMITS).await.unwrap();
    assert_eq!(swept.keys.len(), 0, "the index hides every row from a sweep");
    let (count, keys) = snapshot(&store, &target, LIMITS).await;
    assert_eq!((count, keys.len()), (30, 30));
}

#[tokio::test]
async fn a_fingerprint_is_the_hash_of_the_stored_bytes() {
    let fixture = Fixture::new(TABLES[3]).await;
    fixture.execute("INSERT INTO t VALUES ('x', 'a€', NULL), ('y', '', zeroblob(3145728 + 5)), ('z', NULL, zeroblob(2097152))").await;
    let target = fixture.target().await;
    let hash = |bytes: &[u8]| -> Option<[u8; 32]> { Some(Sha256::digest(bytes).into()) };
    let cases = [
        ("x", 0, hash("a€".as_bytes())),
        ("x", 1, None),
        ("y", 0, hash(b"")),
        ("y", 1, hash(&vec![0; 3_145_733])),
        ("z", 1, hash(&vec![0; 2_097_152])),
        ("missing", 1, None),
    ];
    for (row, column, expected) in cases {
        let found = fixture.store.fingerprint(&target, &RowKey::Text(row.to_owned()), column).await.unwrap();
        assert_eq!(found, expected, "{row} {column}");
    }
}

#[tokio::test]
async fn rows_whose_every_value_begins_alike_are_skipped() {
    let fixture = Fixture::new("CREATE TABLE t (k TEXT PRIMARY KEY, a BLOB, b TEXT)").await;
    fixture
        .execute(
            "INSERT INTO t VALUES ('alike', x'03aabb01', 'A6q7Ag=='), ('null', x'03aabb01', NULL), \
             ('blob', x'03aabc01', 'A6q7Ag=='), ('text', x'03aabb01', 'A6q8Ag=='), ('short', x'03aa', '')",
        )
        .await;
    let target = fixture.target().await;
    let prefix = [0x03, 0xaa, 0xbb];
    let page = fixture.store.read_page(&target, &Span::ALL, None, Some(&prefix), LIMITS).await.unwrap();
    let keys: Vec<String> = page.keys.iter().map(ToString::to_string).collect();
    assert_eq!(
        keys,
        ["blob", "short", "text"],
        "one other value is enough; cells that hold nothing don't count"
    );
}
