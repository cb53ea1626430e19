//! Tables that can't be re-keyed, roles that may not, and keys that are not the table's: all refused before a write.

use std::sync::Arc;

use reseal::{
    envelope::Format,
    rekey::{self, Intent, Outcome, RekeyError},
    store::{Finding, Store, StoreError, TargetName},
};

use super::stage::{Database, OLD, Stage, Under, connect, try_run_job};
use crate::support::{postgres::TempPostgres, tenants::COLUMNS};

fn name(schema: Option<&str>, table: &str, key_column: &str, columns: &[&str]) -> TargetName {
    TargetName {
        logical: None,
        schema: schema.map(str::to_owned),
        table: table.to_owned(),
        key_column: key_column.to_owned(),
        columns: columns.iter().map(|&column| column.to_owned()).collect(),
    }
}

async fn refusals(store: &dyn Store, name: &TargetName) -> String {
    let inspection = store.inspect(name).await.unwrap();
    let lines = inspection.refusals().map(|Finding { what, hint, .. }| format!("{what}; {hint}"));
    lines.collect::<Vec<_>>().join("\n")
}

const ODD_TABLES: &str = "
    CREATE TABLE fine (id int PRIMARY KEY, v bytea, n int, short varchar(40), made bytea GENERATED ALWAYS AS (v) STORED);
    CREATE TABLE no_key (id int, v bytea);
    CREATE TABLE two_keys (a int, b int, v bytea, PRIMARY KEY (a, b));
    CREATE TABLE odd_key (id numeric PRIMARY KEY, v bytea);
    CREATE VIEW a_view AS SELECT * FROM fine;
    CREATE MATERIALIZED VIEW kept_view AS SELECT * FROM fine;
    CREATE TABLE parent (id int PRIMARY KEY, v bytea);
    CREATE TABLE child (extra int) INHERITS (parent);
    CREATE TABLE partitioned (id int PRIMARY KEY, v bytea) PARTITION BY RANGE (id);
    CREATE TABLE ruled (id int PRIMARY KEY, v bytea);
    CREATE RULE keep AS ON UPDATE TO ruled DO INSTEAD NOTHING;
    CREATE SEQUENCE counting;
";

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_rekeyed_is_refused_by_name() {
    let stage = Stage::new("odd_tables", 1).await;
    stage.execute(ODD_TABLES).await;
    for (table, key_column, columns, expected) in [
        ("nowhere", "id", ["v"], "there is no table"),
        ("fine", "id", ["w"], "has no column w"),
        ("fine", "id", ["n"], "column n is of type integer"),
        ("fine", "id", ["short"], "limited in length"),
        ("fine", "id", ["made"], "column made is generated"),
        ("fine", "n", ["v"], "the primary key of fine is id, not n; name it with --key-column id"),
        ("no_key", "id", ["v"], "no_key has no primary key"),
        ("two_keys", "a", ["v"], "the primary key of two_keys has 2 columns"),
        ("odd_key", "id", ["v"], "the primary key id is of type numeric"),
        ("a_view", "id", ["v"], "is a view"),
        ("kept_view", "id", ["v"], "is a view"),
        ("parent", "id", ["v"], "is part of table inheritance"),
        ("child", "id", ["v"], "is part of table inheritance"),
        ("partitioned", "id", ["v"], "is a partitioned table; name each partition"),
        ("ruled", "id", ["v"], "has a rule that rewrites updates"),
        ("counting", "id", ["v"], "is not a table"),
    ] {
        let found = refusals(stage.store.as_ref(), &name(None, table, key_column, &columns)).await;
        assert!(found.contains(expected), "{table}: {found:?}");
    }
    assert_eq!(refusals(stage.store.as_ref(), &name(None, "fine", "id", &["v"])).await, "");
    let elsewhere = refusals(stage.store.as_ref(), &name(Some("nowhere"), "fine", "id", &["v"])).await;
    assert!(elsewhere.contains("there is no table \"nowhere\".\"fine\""), "{elsewhere}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_lacks_is_named_with_the_grant_that_gives_it() {
    let stage = Stage::new("roles", 3).await;
    let (role, cluster) = (&stage.on.database.name, TempPostgres::shared());
    cluster.login(role, "tenant");
    let store = connect(&cluster.tcp_url(role, role, "tenant")).await;
    let tenants = name(None, "org_instances", "org_id", &COLUMNS);

    let found = refusals(store.as_ref(), &tenants).await;
    assert!(
        found.contains(&format!("GRANT SELECT ON \"public\".\"org_instances\" TO \"{role}\"")),
        "{found}"
    );
    stage.execute(&format!("GRANT SELECT ON org_instances TO {role}")).await;
    let found = refusals(store.as_ref(), &tenants).await;
    for column in COLUMNS {
        let grant = format!("GRANT UPDATE (\"{column}\") ON \"public\".\"org_instances\" TO \"{role}\"");
        assert!(found.contains(&grant), "{found}");
        stage.execute(&grant).await;
    }
    let found = refusals(store.as_ref(), &tenants).await;
    assert!(found.ends_with(&format!(" TO \"{role}\"")), "{found}");
    stage.execute(found.split_once("; ").unwrap().1).await;
    assert_eq!(refusals(store.as_ref(), &tenants).await, "");

    // With just these it comes to the end of a run, and of one after it, which settles what the first had to leave.
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let mut choice = stage.choice(Format::V3, &[&old], &format!("local-kms:{}", keyring.display()));
    let (target, cell) = (stage.target().await, *stage.expected.0.keys().next().unwrap());
    for (value, outcome) in [(&b"short"[..], Outcome::Quarantined), (b"", Outcome::Complete)] {
        stage.on.put(cell, 0, value.to_vec()).await;
        let (store, options) = (Arc::clone(&store), stage.options.clone());
        let job = rekey::prepare(store, target.clone(), &choice, options, Intent::Run).await.unwrap();
        assert_eq!(try_run_job(job).await.unwrap().outcome, outcome);
        choice.new_data_key = true;
    }

    stage
        .execute(&format!(
            "ALTER TABLE org_instances ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY own ON org_instances TO {role} USING (status = 'active')"
        ))
        .await;
    let found = refusals(store.as_ref(), &tenants).await;
    assert!(found.contains("row security filters"), "{found}");
    let read = store.count_rows(&stage.target().await).await;
    assert!(matches!(read, Err(StoreError::Refused { .. })), "rows are never hidden in silence");
    stage.execute("ALTER TABLE org_instances DISABLE ROW LEVEL SECURITY").await;

    stage.execute(&format!("ALTER ROLE {role} SET default_transaction_read_only = on")).await;
    let store = connect(&cluster.tcp_url(role, role, "tenant")).await;
    let found = refusals(store.as_ref(), &tenants).await;
    assert!(found.contains("transactions of this role are read-only"), "{found}");
    drop(store);
    stage.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_under_which_nothing_opens_are_refused_before_a_write() {
    let stage = Stage::new("wrong_key", 500).await;
    let (wrong, new) = (stage.static_key("wrong", &[0x44; 32]), stage.static_key("new", &[0x22; 32]));
    let choice = stage.choice(Format::V1, &[&wrong], &new);
    let refused = try_run_job(stage.job(&choice, Intent::Run).await).await.unwrap_err();
    assert!(matches!(&refused, RekeyError::Refused { what, .. } if what.contains("sampled values")));
    for table in ["reseal_runs", "reseal_targets", "reseal_quarantine"] {
        assert_eq!(stage.number(&format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_our_tables_is_refused() {
    let stage = Stage::new("not_migrated", 1).await;
    let (old, new) = (stage.old(), stage.static_key("new", &[0x22; 32]));
    let job = stage.job(&stage.choice(Format::V1, &[&old], &new), Intent::Run).await;
    stage.execute("DELETE FROM reseal_migrations").await;
    let refused = try_run_job(job).await.unwrap_err();
    assert!(matches!(refused, RekeyError::Refused { hint, .. } if hint == "reseal init"));
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);
}

/// A logical name, once used, stands for one table: values are bound to it.
#[tokio::test(flavor = "multi_thread")]
async fn another_table_under_the_same_name_is_refused() {
    let stage = Stage::new("same_name", 20).await;
    let (old, new) = (stage.old(), stage.static_key("new", &[0x22; 32]));
    let choice = stage.choice(Format::V1, &[&old], &new);
    assert_eq!(stage.run(&choice).await.outcome, Outcome::Complete);
    stage
        .execute(
            "CREATE TABLE copied (LIKE org_instances INCLUDING ALL); INSERT INTO copied SELECT * FROM org_instances; \
             DROP TABLE org_instances; ALTER TABLE copied RENAME TO org_instances",
        )
        .await;
    let back = stage.choice(Format::V1, &[&new], &old);
    let refused = try_run_job(stage.job(&back, Intent::Run).await).await.unwrap_err();
    assert!(matches!(refused, RekeyError::Store(StoreError::OtherTarget { .. })), "{refused}");
    assert_eq!(stage.differences(Under::Static(&[0x22; 32])).await, [""; 0]);
}

/// The server takes a longer name for its first 63 bytes. Values are bound to the table's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_server_cuts_off_is_the_one_that_the_table_has() {
    let stage = Stage::new("long_name", 1).await;
    let long = "t".repeat(70);
    stage.execute(&format!("CREATE TABLE {long} (id int PRIMARY KEY, v bytea)")).await;
    let target = stage.target_of(&long, "id", &["v"]).await;
    assert_eq!((target.name.as_str(), target.table.as_str()), (&long[..63], &long[..63]));
    assert_eq!(target, stage.target_of(&long[..63], "id", &["v"]).await);
}
