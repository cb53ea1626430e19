//! Keys, columns and names of every kind that is allowed, each there and back with every plaintext checked.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use reseal::{
    envelope::Format,
    keyring::ClearText,
    rekey::{self, DataKeyScope, Intent, KeyChoice, Outcome},
    store::{PageLimits, Span},
};
use sqlx::{AssertSqlSafe, Row};

use super::stage::{IndependentKeys, OLD, Stage, Under, run_job};
use crate::support::oracle::{self, Cell};

/// A table of one shape.
struct Shape<'a> {
    create: &'a str,
    /// As the database would quote it.
    quoted: &'a str,
    /// Its bare name, to which v3 values are bound.
    table: &'a str,
    key_column: &'a str,
    /// The columns, and whether they are text.
    columns: &'a [(&'a str, bool)],
    /// Key literals.
    keys: Vec<String>,
}

fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Shape<'_> {
    fn plaintext(&self, row: &str, column: &str) -> Vec<u8> {
        format!("postgres://{row}:secret@{column}/{}", self.table).into_bytes()
    }

    async fn fill(&self, stage: &Stage) {
        stage.execute(self.create).await;
        let key = ident(self.key_column);
        for literal in &self.keys {
            let sql = format!("INSERT INTO {} ({key}) VALUES ({literal}) RETURNING {key}::text", self.quoted);
            let row: String = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&stage.on.pool).await.unwrap();
            for &(column, text) in self.columns {
                let value = oracle::seal_v1(&OLD, None, &self.plaintext(&row, column));
                let set =
                    format!("UPDATE {} SET {} = $1 WHERE {key} = {literal}", self.quoted, ident(column));
                let update = sqlx::query(AssertSqlSafe(set));
                let update = if text { update.bind(STANDARD.encode(value)) } else { update.bind(value) };
                assert_eq!(update.execute(&stage.on.pool).await.unwrap().rows_affected(), 1);
            }
        }
    }

    async fn check(&self, stage: &Stage, under: &Under<'_>) {
        let keys = IndependentKeys::load(stage.store.as_ref(), &[], under).await;
        let mut seen = 0;
        for &(column, text) in self.columns {
            let sql =
                format!("SELECT {}::text, {} FROM {}", ident(self.key_column), ident(column), self.quoted);
            for row in sqlx::query(AssertSqlSafe(sql)).fetch_all(&stage.on.pool).await.unwrap() {
                let key: String = row.get(0);
                let value: Vec<u8> =
                    if text { STANDARD.decode(row.get::<String, _>(1)).unwrap() } else { row.get(1) };
                let cell = Cell { table: self.table, column, row: &key };
                assert_eq!(keys.open(under, cell, &value), Some(self.plaintext(&key, column)), "{key:?}");
                seen += 1;
            }
        }
        assert_eq!(seen, self.keys.len() * self.columns.len());
    }

    /// v1 to v3, which is bound to the key's text, and back.
    async fn there_and_back(&self, stage: &Stage) {
        self.fill(stage).await;
        let (old, keyring) = (stage.old(), stage.folder.path().join("keyring"));
        let new = format!("local-kms:{}", keyring.display());
        let columns: Vec<&str> = self.columns.iter().map(|&(column, _)| column).collect();
        for (choice, under) in [
            (stage.choice(Format::V3, &[&old], &new), Under::Bound(&keyring)),
            (stage.choice(Format::V1, &[&new], &old), Under::Static(&OLD)),
        ] {
            let target = async || stage.target_of(self.table, self.key_column, &columns).await;
            let report = run_job(stage.job_of(target().await, &choice, Intent::Run).await).await;
            let cells = i64::try_from(self.keys.len() * columns.len()).unwrap();
            assert_eq!(report.outcome, Outcome::Complete, "{}", self.table);
            assert_eq!((report.tally.total, report.tally.rekeyed), (cells, cells));
            assert!(report.tally.sums());
            self.check(stage, &under).await;
            let job = stage.job_of(target().await, &choice, Intent::Verify).await;
            let verified = rekey::verify(&Arc::new(job)).await.unwrap();
            assert!(verified.passed() && verified.opened == cells, "{verified:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_goes_there_and_back() {
    let mut stage = Stage::new("keys", 1).await;
    stage.options.batch = 3;
    stage.keyring("keyring");
    let numbers = |numbers: &[i64]| numbers.iter().map(|number| format!("({number})")).collect::<Vec<_>>();
    let odd = [
        "''",
        "' '",
        "'a'",
        "'A'",
        "'ä'",
        "'Z'",
        "'z'",
        "'-1'",
        "'007'",
        "'a''b'",
        "'a\"b'",
        "E'tab\\there'",
        "E'line\\nbreak'",
        "'%s $1 {}'",
        "'日本語'",
        "'🔑'",
        "E'\\u0301e'",
        "'NULL'",
        "'\\x00'",
    ];
    let odd = odd.map(str::to_owned).to_vec();
    let bytea = [("v", false)];
    let text = [("v", true)];
    for shape in [
        Shape {
            create: "CREATE TABLE small (id smallint PRIMARY KEY, v bytea)",
            quoted: "small",
            table: "small",
            key_column: "id",
            columns: &bytea,
            keys: numbers(&[-32768, -1, 0, 1, 7, 32767]),
        },
        Shape {
            create: "CREATE TABLE middle (id int PRIMARY KEY, v bytea)",
            quoted: "middle",
            table: "middle",
            key_column: "id",
            columns: &bytea,
            keys: numbers(&[-2_147_483_648, -5, 0, 5, 10, 2_147_483_647]),
        },
        Shape {
            create: "CREATE TABLE large (id bigint PRIMARY KEY, v text)",
            quoted: "large",
            table: "large",
            key_column: "id",
            columns: &text,
            keys: numbers(&[-9_223_372_036_854_775_807, -5, 0, 5, 10, 9_223_372_036_854_775_807]),
        },
        Shape {
            create: "CREATE TABLE texts (id text PRIMARY KEY, v bytea)",
            quoted: "texts",
            table: "texts",
            key_column: "id",
            columns: &bytea,
            keys: odd.clone(),
        },
        Shape {
            create: "CREATE TABLE sorted (id varchar(80) COLLATE \"und-x-icu\" PRIMARY KEY, v bytea)",
            quoted: "sorted",
            table: "sorted",
            key_column: "id",
            columns: &bytea,
            keys: odd,
        },
        Shape {
            create: "CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
                     CREATE TABLE caseless (id text COLLATE caseless PRIMARY KEY, v text COLLATE caseless, \
                     w text COLLATE caseless)",
            quoted: "caseless",
            table: "caseless",
            key_column: "id",
            columns: &[("v", true), ("w", true)],
            keys: ["'B'", "'a'", "'C'", "'d'", "'E e'", "'ß'"].map(str::to_owned).to_vec(),
        },
        Shape {
            create: "CREATE TABLE \"Org \"\"x\"\" instances\" (\"the \"\"key\"\"\" uuid PRIMARY KEY, \
                     \"URL; --\" bytea, \"select\" text, \"$1\" varchar)",
            quoted: "\"Org \"\"x\"\" instances\"",
            table: "Org \"x\" instances",
            key_column: "the \"key\"",
            columns: &[("URL; --", false), ("select", true), ("$1", true)],
            keys: vec!["gen_random_uuid()".to_owned()],
        },
    ] {
        if shape.columns.len() == 3 {
            // The literal is drawn anew each time it is written: name the rows beforehand.
            let keys = (0..8).map(|_| format!("'{}'::uuid", uuid::Uuid::new_v4()).to_owned()).collect();
            Shape { keys, ..shape }.there_and_back(&stage).await;
        } else {
            shape.there_and_back(&stage).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_schema_and_an_indexed_column_are_fine() {
    let stage = Stage::new("schema", 1).await;
    stage.keyring("keyring");
    stage.execute("CREATE SCHEMA other").await;
    let shape = Shape {
        create: "CREATE TABLE other.things (id int PRIMARY KEY, v bytea); CREATE INDEX by_value ON other.things (v)",
        quoted: "other.things",
        table: "things",
        key_column: "id",
        columns: &[("v", false)],
        keys: (0..20).map(|number| format!("({number})")).collect(),
    };
    shape.fill(&stage).await;
    let name = reseal::store::TargetName {
        logical: Some("renamed".to_owned()),
        schema: Some("other".to_owned()),
        table: "things".to_owned(),
        key_column: "id".to_owned(),
        columns: vec!["v".to_owned()],
    };
    let inspection = stage.store.inspect(&name).await.unwrap();
    assert_eq!(inspection.refusals().count(), 0);
    assert!(inspection.findings[0].what.contains("index by_value reads column v"));
    let (old, keyring) = (stage.old(), stage.folder.path().join("keyring"));
    let choice = stage.choice(Format::V3, &[&old], &format!("local-kms:{}", keyring.display()));
    let report = run_job(stage.job_of(inspection.target.unwrap(), &choice, Intent::Run).await).await;
    assert_eq!((report.outcome, report.tally.rekeyed), (Outcome::Complete, 20));

    let under = Under::Bound(&keyring);
    let keys = IndependentKeys::load(stage.store.as_ref(), &[], &under).await;
    for row in sqlx::query("SELECT id::text, v FROM other.things").fetch_all(&stage.on.pool).await.unwrap() {
        let (key, value): (String, Vec<u8>) = (row.get(0), row.get(1));
        let cell = Cell { table: "renamed", column: "v", row: &key };
        assert_eq!(keys.open(&under, cell, &value), Some(shape.plaintext(&key, "v")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_no_row_and_of_one() {
    for rows in [0, 1] {
        let stage = Stage::new("few", rows).await;
        let (old, keyring) = (stage.old(), stage.keyring("keyring"));
        let choice = stage.choice(Format::V2, &[&old], &format!("local-kms:{}", keyring.display()));
        let report = stage.run(&choice).await;
        let (cells, sealed) = stage.cells();
        assert_eq!((report.outcome, report.tally.total), (Outcome::Complete, cells));
        assert_eq!(report.tally.rekeyed, sealed);
        assert_eq!(stage.differences(Under::Wrapped(&keyring)).await, [""; 0]);
        let verified = stage.verify(&choice).await;
        assert!(verified.passed() && verified.expected == cells);
    }
}

/// v1 values whose random first byte is another format's, even those that have its lengths too.
#[tokio::test(flavor = "multi_thread")]
async fn static_values_that_look_like_another_format_are_rekeyed() {
    for format in [Format::V2, Format::V3] {
        let mut stage = Stage::new("look_alike", 120).await;
        let rows: Vec<_> = stage.expected.0.keys().copied().collect();
        for (number, row) in rows.iter().enumerate() {
            let plaintext = format!("postgres://looks/like/{number}").into_bytes();
            let value = match number % 3 {
                0 => oracle::v1_that_parses_as_v2(&OLD, &plaintext),
                1 => oracle::v1_with_first_byte(&OLD, 0x02, &plaintext),
                _ => oracle::v1_with_first_byte(&OLD, 0x03, &plaintext),
            };
            let set = "UPDATE org_instances SET database_url_encrypted = $1 WHERE org_id = $2";
            sqlx::query(set).bind(value).bind(row).execute(&stage.on.pool).await.unwrap();
            let text = String::from_utf8(plaintext).unwrap();
            stage.expected.0.get_mut(row).unwrap()[0] = crate::support::tenants::Holds::Sealed(text);
        }
        let (old, keyring) = (stage.old(), stage.keyring("keyring"));
        let choice = stage.choice(format, &[&old], &format!("local-kms:{}", keyring.display()));
        let census = rekey::census(&Arc::new(stage.job(&choice, Intent::Look).await)).await.unwrap();
        assert!(census.ambiguous >= 120 && census.refused.is_empty(), "{census:?}");
        let report = stage.run(&choice).await;
        assert_eq!((report.outcome, report.tally.total), (Outcome::Complete, stage.cells().0));
        assert_eq!(report.tally.rekeyed, stage.cells().1);
        let under = if format == Format::V2 { Under::Wrapped(&keyring) } else { Under::Bound(&keyring) };
        assert_eq!(stage.differences(under).await, [""; 0]);
        assert!(stage.verify(&choice).await.passed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_static_values_get_a_fresh_nonce_when_that_is_asked_for() {
    let mut stage = Stage::new("ambiguous", 1500).await;
    let ambiguous = "SELECT sum((get_byte(v, 0) IN (2, 3))::int)::bigint FROM (SELECT database_url_encrypted AS v \
                     FROM org_instances UNION ALL SELECT redis_url_encrypted FROM org_instances) t WHERE length(v) > 0";
    let before = stage.number(ambiguous).await;
    assert!(before > 0);
    let old = stage.old();
    let choice = stage.choice(Format::V1, &[&old], &old);
    // Without that it is refused: a run from a key to itself does nothing.
    stage.options.reseal_ambiguous = true;
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.tally.rekeyed), (Outcome::Complete, before));
    assert_eq!(report.tally.current, stage.cells().1 - before);
    assert_eq!(stage.number(ambiguous).await, 0);
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_come_in_pages_of_4_mib() {
    let stage = Stage::new("large", 30).await;
    let plaintext = "x".repeat(1 << 20);
    let mut expected = stage.expected.0.clone();
    for (row, holds) in &mut expected {
        let value = oracle::seal_v1(&OLD, None, plaintext.as_bytes());
        let set = "UPDATE org_instances SET database_url_encrypted = $1 WHERE org_id = $2";
        sqlx::query(set).bind(value).bind(row).execute(&stage.on.pool).await.unwrap();
        holds[0] = crate::support::tenants::Holds::Sealed(plaintext.clone());
    }
    let stage = Stage { expected: crate::support::tenants::Expected(expected), ..stage };
    let limits = PageLimits { rows: 1000, bytes: 4 << 20, value: 16 << 20 };
    let target = stage.target().await;
    let (mut after, mut rows) = (None, 0);
    loop {
        let page = stage.store.read_page(&target, &Span::ALL, after.as_ref(), None, limits).await.unwrap();
        rows += page.keys.len();
        assert!(page.cells.byte_len() < (4 << 20) + (1 << 20) + 4096, "{}", page.cells.byte_len());
        after = page.keys.last().cloned().or(after);
        if page.last {
            break;
        }
    }
    assert_eq!(rows, 30);
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let choice = KeyChoice {
        scope: DataKeyScope::Batch,
        ..stage.choice(Format::V2, &[&old], &format!("local-kms:{}", keyring.display()))
    };
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.tally.total), (Outcome::Complete, 60));
    assert_eq!(stage.differences(Under::Wrapped(&keyring)).await, [""; 0]);
    assert!(stage.verify(&choice).await.passed());
}

/// None of them is base64, which is no reason to take the keys for the wrong ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_column_of_urls_in_the_clear_is_sealed_when_that_is_asked_for() {
    let stage = Stage::new("clear_text", 1).await;
    stage
        .execute(
            "CREATE TABLE clear (id int PRIMARY KEY, v text); \
             INSERT INTO clear SELECT n, 'postgres://user:word@host/' || n FROM generate_series(1, 60) n",
        )
        .await;
    let (old, new) = (stage.old(), stage.static_key("new", &[0x22; 32]));
    let choice = KeyChoice { clear_text: ClearText::Seal, ..stage.choice(Format::V1, &[&old], &new) };
    let target = stage.target_of("clear", "id", &["v"]).await;
    let report = run_job(stage.job_of(target, &choice, Intent::Run).await).await;
    assert_eq!((report.outcome, report.tally.rekeyed), (Outcome::Complete, 60));
    let stored = sqlx::query("SELECT id, v FROM clear").fetch_all(&stage.on.pool).await.unwrap();
    for row in stored {
        let (id, value): (i32, String) = (row.get(0), row.get(1));
        let opened = oracle::open_v1(&[0x22; 32], &STANDARD.decode(value).unwrap()).unwrap();
        assert_eq!(opened, format!("postgres://user:word@host/{id}").into_bytes());
    }
}
