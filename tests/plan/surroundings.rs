//! What lives around a table, and servers that take no write.

use std::fmt::Write;

use reseal::store::{Finding, Store};

use crate::{
    rekey::stage::{Stage, connect},
    support::{
        postgres::TempPostgres,
        tenants::{COLUMNS, TABLE},
    },
};

async fn findings(store: &dyn Store, table: &str, key: &str, columns: &[&str]) -> Vec<Finding> {
    let name = reseal::store::TargetName {
        logical: None,
        schema: None,
        table: table.to_owned(),
        key_column: key.to_owned(),
        columns: columns.iter().map(|&column| column.to_owned()).collect(),
    };
    store.inspect(&name).await.unwrap().findings
}

async fn said(store: &dyn Store) -> String {
    findings(store, TABLE, "org_id", &COLUMNS).await.iter().fold(String::new(), |mut text, finding| {
        writeln!(text, "{}{}", if finding.refuses { "refused: " } else { "" }, finding.what).unwrap();
        text
    })
}

#[tokio::test]
async fn triggers_indexes_and_generated_columns_are_named() {
    let stage = Stage::new("around", 5).await;
    assert_eq!(said(stage.store.as_ref()).await, "");
    stage
        .execute(
            "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER a_touch BEFORE UPDATE ON org_instances FOR EACH ROW EXECUTE FUNCTION touch();
             CREATE TRIGGER b_note AFTER INSERT OR UPDATE OF slug, redis_url_encrypted ON org_instances FOR EACH STATEMENT EXECUTE FUNCTION touch();
             CREATE TRIGGER c_other BEFORE UPDATE OF slug ON org_instances FOR EACH ROW EXECUTE FUNCTION touch();
             CREATE TRIGGER d_insert BEFORE INSERT ON org_instances FOR EACH ROW EXECUTE FUNCTION touch();
             CREATE TRIGGER e_off BEFORE UPDATE ON org_instances FOR EACH ROW EXECUTE FUNCTION touch();
             ALTER TABLE org_instances DISABLE TRIGGER e_off;
             CREATE TRIGGER reseal_own BEFORE UPDATE ON org_instances FOR EACH ROW EXECUTE FUNCTION touch();
             ALTER TABLE org_instances ADD CONSTRAINT one_each UNIQUE (redis_url_encrypted);
             CREATE INDEX by_slug ON org_instances (slug);
             CREATE INDEX by_hash ON org_instances (md5(encode(redis_url_encrypted, 'hex')));
             CREATE INDEX partly ON org_instances (slug) WHERE database_url_encrypted IS NOT NULL;
             ALTER TABLE org_instances ADD COLUMN digest text GENERATED ALWAYS AS (md5(encode(database_url_encrypted, 'hex'))) STORED,
                                       ADD COLUMN loud text GENERATED ALWAYS AS (upper(slug)) STORED",
        )
        .await;
    assert_eq!(
        said(stage.store.as_ref()).await,
        "index partly reads column database_url_encrypted\n\
         index by_hash reads column redis_url_encrypted\n\
         index one_each reads column redis_url_encrypted\n\
         trigger a_touch fires before each row on update of any column and calls touch\n\
         trigger b_note fires after each statement on update of slug, redis_url_encrypted and calls touch\n\
         generated column digest reads these columns\n"
    );
}

#[tokio::test]
async fn replication_that_carries_every_change_is_named_and_a_standby_is_refused() {
    let cluster = TempPostgres::start_with(&["wal_level = logical"]);
    let database = cluster.database("replicated");
    let pool = database.pool();
    let execute = async |sql: &'static str| sqlx::raw_sql(sql).execute(&pool).await.map(drop).unwrap();
    execute(crate::support::tenants::POSTGRES_DDL).await;
    execute("CREATE TABLE other (id int PRIMARY KEY); CREATE PUBLICATION elsewhere FOR TABLE other").await;
    let store = connect(&database.url()).await;
    assert_eq!(said(store.as_ref()).await, "");

    execute("CREATE PUBLICATION whole FOR ALL TABLES; CREATE PUBLICATION ours FOR TABLE org_instances").await;
    execute("CREATE PUBLICATION inserts FOR TABLE org_instances WITH (publish = 'insert')").await;
    execute("SELECT pg_create_logical_replication_slot('warehouse', 'pgoutput')").await;
    execute("ALTER TABLE org_instances REPLICA IDENTITY FULL").await;
    assert_eq!(
        said(store.as_ref()).await,
        "the replica identity of org_instances is FULL\n\
         publication ours carries every update of org_instances\n\
         publication whole carries every update of org_instances\n\
         logical replication slot warehouse (pgoutput) decodes every change\n"
    );
    let slot = findings(store.as_ref(), TABLE, "org_id", &COLUMNS).await.pop().unwrap();
    assert!(
        slot.hint.starts_with("nobody reads it and ") && slot.hint.contains(" of log is kept for it: "),
        "{slot:?}"
    );

    execute("CREATE UNIQUE INDEX by_value ON org_instances (database_url_encrypted)").await;
    execute("ALTER TABLE org_instances REPLICA IDENTITY USING INDEX by_value").await;
    let text = said(store.as_ref()).await;
    assert!(
        text.contains(
            "\nthe replica identity of org_instances is an index over column database_url_encrypted\n"
        ),
        "{text}"
    );

    // Then Postgres would refuse every update.
    execute("ALTER TABLE org_instances REPLICA IDENTITY NOTHING").await;
    let text = said(store.as_ref()).await;
    assert!(
        text.starts_with("refused: org_instances is published with updates and has no replica identity\n"),
        "{text}"
    );

    let standby = cluster.standby();
    let there = connect(&standby.url(&database.name)).await;
    let text = said(there.as_ref()).await;
    assert!(text.contains("refused: this server is a standby\n"), "{text}");
}

#[tokio::test]
async fn a_role_without_rights_on_our_tables_is_refused_by_their_names() {
    let stage = Stage::new("own_tables", 5).await;
    let role = stage.on.database.name.clone();
    TempPostgres::shared().login(&role, "secret-of-a-role");
    stage
        .execute(&format!(
            "GRANT SELECT, UPDATE ON org_instances TO {role}; GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role};
             REVOKE UPDATE ON reseal_shards, reseal_targets FROM {role}; REVOKE INSERT ON reseal_quarantine FROM {role}",
        ))
        .await;
    let url = TempPostgres::shared().tcp_url(&role, &role, "secret-of-a-role");
    let store = connect(&url).await;
    let text = said(store.as_ref()).await;
    assert_eq!(
        text,
        format!(
            "refused: role {role} may not read and write reseal_shards, reseal_processes, reseal_quarantine\n"
        )
    );
    drop(store);
    stage.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
