//! Every way to write a row of Postgres, and every kind of writer.

use std::process::{Command, Stdio};

use reseal::store::FenceMode;

use super::field::{Field, KEY, bound, bytes, is_fenced, text, v1, v3, write};
use crate::support::{pgbouncer::PgBouncer, postgres::TempPostgres};

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_write_is_checked() {
    let field = Field::new("fence_ways").await;
    field.enforce().await;
    let (new, newer, stale) = (v3(KEY, 1), v3(KEY, 2), v1(9));
    field.execute(&format!("INSERT INTO t VALUES (2, {}, {})", bytes(&new), text(&new))).await;
    let ways = |value: &[u8]| {
        let (a, b) = (bytes(value), text(value));
        vec![
            format!("INSERT INTO t (k, a) VALUES (3, {a})"),
            format!("INSERT INTO t (k, b) SELECT 4, {b}"),
            format!("INSERT INTO t VALUES (2, {a}) ON CONFLICT (k) DO UPDATE SET a = excluded.a"),
            format!("INSERT INTO t VALUES (5, {a}) ON CONFLICT (k) DO UPDATE SET a = excluded.a"),
            format!("UPDATE t SET b = {b} WHERE k = 2"),
            format!("UPDATE t SET (a, note) = ({a}, 'x') WHERE k = 2"),
            format!("WITH x AS (UPDATE t SET a = {a} WHERE k = 2 RETURNING 1) SELECT * FROM x"),
            format!(
                "MERGE INTO t USING (VALUES (2, {a})) AS v(k, a) ON t.k = v.k \
                 WHEN MATCHED THEN UPDATE SET a = v.a WHEN NOT MATCHED THEN INSERT (k, a) VALUES (v.k, v.a)"
            ),
            format!(
                "MERGE INTO t USING (VALUES (6, {a})) AS v(k, a) ON t.k = v.k \
                 WHEN MATCHED THEN UPDATE SET a = v.a WHEN NOT MATCHED THEN INSERT (k, a) VALUES (v.k, v.a)"
            ),
        ]
    };
    let before = field.rows().await;
    for sql in ways(&stale) {
        let refusal = is_fenced(field.write(&sql).await);
        assert!(refusal.message.starts_with("the reseal fence refuses this write: t."), "{refusal:?}");
        assert!(refusal.message.contains(&format!("v3 under data-key:{}", hex::encode(KEY))), "{refusal:?}");
        assert!(refusal.hint.contains("give it the new one and restart it"), "{refusal:?}");
        assert!(!format!("{refusal:?}").contains(&hex::encode(&stale[..8])), "it shows no value");
    }
    assert_eq!(field.rows().await, before, "nothing of it was written");
    for sql in ways(&newer) {
        field.write(&sql).await.unwrap_or_else(|refusal| panic!("{sql}: {refusal:?}"));
    }

    for (value, passes) in [(&stale, false), (&newer, true)] {
        let mut conn = field.session().await;
        let mut copy =
            sqlx::postgres::PgConnection::copy_in_raw(&mut conn, "COPY t (k, a) FROM STDIN").await.unwrap();
        copy.send(format!("7\t\\\\x{}\n8\t\\N\n", hex::encode(value)).as_bytes()).await.unwrap();
        assert_eq!(copy.finish().await.is_ok(), passes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_no_value_passes() {
    let field = Field::new("fence_unchanged").await;
    field.enforce().await;
    let (a, b) = (bytes(&v1(1)), text(&v1(1)));
    for sql in [
        format!("UPDATE t SET a = {a}, b = {b}, note = 'a full save of a quarantined row' WHERE k = 1"),
        "UPDATE t SET k = 11, note = 'another key' WHERE k = 1".to_owned(),
        format!(
            "INSERT INTO t VALUES (11, {a}, {b}, 'again') ON CONFLICT (k) DO UPDATE SET note = excluded.note"
        ),
        "INSERT INTO t (k, a, b) VALUES (2, NULL, NULL), (3, '', '')".to_owned(),
        "UPDATE t SET a = '', b = NULL WHERE k = 2".to_owned(),
    ] {
        field.write(&sql).await.unwrap_or_else(|refusal| panic!("{sql}: {refusal:?}"));
    }
    // Each column for itself: the other one's old value is no excuse, and no obstacle.
    let refusal =
        is_fenced(field.write(&format!("UPDATE t SET a = {a}, b = {} WHERE k = 11", text(&v1(2)))).await);
    assert_eq!(refusal.column, "b");
    field.write(&format!("UPDATE t SET a = {} WHERE k = 11", bytes(&v3(KEY, 1)))).await.unwrap();
    field.write("UPDATE t SET a = NULL, b = '' WHERE k = 11").await.unwrap();
}

/// A collation that takes two texts for equal does not make a changed value an unchanged one.
#[tokio::test(flavor = "multi_thread")]
async fn text_is_compared_byte_by_byte() {
    let field = Field::new("fence_collation").await;
    field
        .execute(
            "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level1', deterministic = false); \
             ALTER TABLE t ALTER b TYPE text COLLATE blind",
        )
        .await;
    field.enforce().await;
    assert_eq!(field.number("SELECT count(*) FROM t WHERE b = upper(b)").await, 1);
    is_fenced(field.write("UPDATE t SET b = upper(b) WHERE k = 1").await);
    field.write(&format!("UPDATE t SET b = {} WHERE k = 1", text(&v3(KEY, 1)))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_of_the_table_cant_slip_a_value_in() {
    let field = Field::new("fence_before").await;
    field
        .execute(&format!(
            "CREATE FUNCTION zz() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.a = {}; RETURN NEW; END $$; \
             CREATE TRIGGER zz BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION zz()",
            bytes(&v1(9))
        ))
        .await;
    field.enforce().await;
    is_fenced(field.write(&format!("INSERT INTO t VALUES (2, {})", bytes(&v3(KEY, 1)))).await);
    is_fenced(field.write("UPDATE t SET note = 'no word of a' WHERE k = 1").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_on_our_tables_is_refused_and_recorded() {
    let field = Field::new("fence_role").await;
    let role = format!("{}_writer", field.database.name);
    TempPostgres::shared().login(&role, "secret");
    field.execute(&format!("GRANT SELECT, INSERT, UPDATE ON t TO {role}; REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO {role}")).await;
    let url = TempPostgres::shared().tcp_url(&field.database.name, &role, "secret");
    let mut conn =
        <sqlx::PgConnection as sqlx::Connection>::connect(&format!("{url}?application_name=old-machine"))
            .await
            .unwrap();
    let stale = format!("UPDATE t SET a = {} WHERE k = 1", bytes(&v1(9)));
    let current = format!("UPDATE t SET a = {} WHERE k = 1", bytes(&v3(KEY, 1)));

    field.enforce().await;
    is_fenced(write(&mut conn, &stale).await);
    write(&mut conn, &current).await.unwrap();

    field.raise(FenceMode::Observe, bound()).await;
    write(&mut conn, &stale).await.unwrap();
    write(&mut conn, &current).await.unwrap();
    let [seen] = field.store.stale_writes("t", 10).await.unwrap().try_into().unwrap();
    assert_eq!(
        (seen.role.as_deref(), seen.application.as_deref()),
        (Some(role.as_str()), Some("old-machine"))
    );
    assert_eq!(
        (seen.column.as_str(), seen.wrote.as_str(), seen.row_key.as_deref()),
        ("a", "v1 or unknown", Some("1"))
    );
    assert_eq!(seen.address.as_deref(), Some("127.0.0.1"));
    let peeks = "SELECT count(*) FROM reseal_fence_events";
    assert_eq!(write(&mut conn, peeks).await.unwrap_err().code, "42501");
    let calls = format!("SELECT {}()", field_function(&field).await);
    assert_eq!(write(&mut conn, &calls).await.unwrap_err().code, "42501", "the recorder is nobody's to call");
    drop(conn);
    field.execute(&format!("DROP OWNED BY {role}")).await;
}

async fn field_function(field: &Field) -> String {
    sqlx::query_scalar("SELECT proname::text FROM pg_proc WHERE proname ~ '^reseal_fence_[0-9a-f]+$'")
        .fetch_one(&field.pool)
        .await
        .unwrap()
}

/// A schema in front of `pg_catalog` whose functions, operators and types say that all is well.
#[tokio::test(flavor = "multi_thread")]
async fn another_search_path_changes_nothing() {
    let field = Field::new("fence_path").await;
    field
        .execute(
            "CREATE SCHEMA evil; SET search_path = evil, pg_catalog; \
             CREATE FUNCTION octet_length(bytea) RETURNS int LANGUAGE sql AS 'SELECT 0'; \
             CREATE FUNCTION octet_length(text) RETURNS int LANGUAGE sql AS 'SELECT 0'; \
             CREATE FUNCTION substr(bytea, int, int) RETURNS bytea LANGUAGE sql AS 'SELECT NULL::bytea'; \
             CREATE FUNCTION substr(text, int, int) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'; \
             CREATE FUNCTION decode(text, text) RETURNS bytea LANGUAGE sql AS 'SELECT NULL::bytea'; \
             CREATE FUNCTION yes(bytea, bytea) RETURNS boolean LANGUAGE sql AS 'SELECT true'; \
             CREATE FUNCTION yes(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'; \
             CREATE FUNCTION no(bytea, bytea) RETURNS boolean LANGUAGE sql AS 'SELECT false'; \
             CREATE FUNCTION no(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false'; \
             CREATE FUNCTION no(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT false'; \
             CREATE OPERATOR = (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = yes); \
             CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = yes); \
             CREATE OPERATOR <> (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = no); \
             CREATE OPERATOR <> (LEFTARG = text, RIGHTARG = text, FUNCTION = no); \
             CREATE OPERATOR > (LEFTARG = int, RIGHTARG = int, FUNCTION = no); \
             CREATE DOMAIN bytea AS text; CREATE TABLE reseal_fence_events (x int); CREATE TABLE reseal_data_keys (x int); \
             RESET search_path",
        )
        .await;
    for rule in [bound(), reseal::store::FenceRule::Wrapped] {
        for mode in [FenceMode::Enforce, FenceMode::Observe] {
            field.raise(mode, rule).await;
            let before = field.number("SELECT count(*) FROM public.reseal_fence_events").await;
            for path in ["evil, pg_catalog, public", "evil", "pg_temp, evil, pg_catalog"] {
                for set in [
                    format!("a = pg_catalog.decode('{}', 'hex')", hex::encode(v1(8))),
                    format!("b = {}", text(&v1(8))),
                ] {
                    let mut conn = field.session().await;
                    write(&mut conn, &format!("SET search_path = {path}")).await.unwrap();
                    let sql = format!(
                        "BEGIN; UPDATE public.t SET {set}; COMMIT; BEGIN; DELETE FROM public.t; \
                                       INSERT INTO public.t (k) VALUES (1); UPDATE public.t SET {set}; ROLLBACK"
                    );
                    let done = write(&mut conn, &sql).await;
                    match mode {
                        FenceMode::Enforce => drop(is_fenced(done)),
                        FenceMode::Observe => drop(done.unwrap()),
                    }
                }
            }
            let recorded = field.number("SELECT count(*) FROM public.reseal_fence_events").await - before;
            assert_eq!(recorded > 0, mode == FenceMode::Observe);
            field
                .execute(&format!(
                    "ALTER TABLE t DISABLE TRIGGER ALL; UPDATE t SET a = {}, b = {}",
                    bytes(&v1(1)),
                    text(&v1(1))
                ))
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_session_is_checked_too() {
    let field = Field::new("fence_replica").await;
    field.enforce().await;
    let mut conn = field.session().await;
    write(&mut conn, "SET session_replication_role = replica").await.unwrap();
    is_fenced(write(&mut conn, &format!("UPDATE t SET a = {}", bytes(&v1(9)))).await);
    is_fenced(write(&mut conn, &format!("INSERT INTO t (k, b) VALUES (2, {})", text(&v1(9)))).await);
    write(&mut conn, &format!("UPDATE t SET a = {}", bytes(&v3(KEY, 1)))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observing_fence_records_who_and_what_and_lets_it_through() {
    let field = Field::new("fence_observe").await;
    field
        .execute(
            "INSERT INTO reseal_data_keys (key_id, wrap_id, purpose, kms, wrapped, state) VALUES \
                   ('another-data-key', gen_random_uuid(), 't', 'k', 'w', 'draining')",
        )
        .await;
    field.raise(FenceMode::Observe, bound()).await;
    let mut conn = field.session().await;
    write(&mut conn, "SET application_name = 'canary'").await.unwrap();
    let known = v3(*b"another-data-key", 1);
    let wrapped = [&[2, 0, 9], [7; 90].as_slice()].concat();
    for sql in [
        format!("UPDATE t SET a = {}, b = {} WHERE k = 1", bytes(&v1(2)), text(&known)),
        format!("INSERT INTO t VALUES (2, {}, {})", bytes(&wrapped), text(&wrapped)),
        format!("UPDATE t SET b = {} WHERE k = 2", text(&v3([7; 16], 1))),
        format!("BEGIN; UPDATE t SET a = {}; ROLLBACK", bytes(&v1(3))),
        format!("UPDATE t SET a = {} WHERE k = 2", bytes(&v3(KEY, 1))),
    ] {
        write(&mut conn, &sql).await.unwrap();
    }
    let mut seen: Vec<_> = field
        .store
        .stale_writes("t", 10)
        .await
        .unwrap()
        .into_iter()
        .map(|w| (w.column, w.wrote, w.count, w.row_key.unwrap(), w.application.unwrap(), w.role.unwrap()))
        .collect();
    seen.sort();
    let who = |column: &str, wrote: String, row: &str| {
        (column.to_owned(), wrote, 1, row.to_owned(), "canary".to_owned(), "postgres".to_owned())
    };
    let mut expected = vec![
        who("a", "v1 or unknown".to_owned(), "1"),
        who("b", format!("v3 under data-key:{}", hex::encode("another-data-key")), "1"),
        who("a", "v2".to_owned(), "2"),
        who("b", "v2".to_owned(), "2"),
        who("b", "v1 or unknown".to_owned(), "2"),
    ];
    expected.sort();
    assert_eq!(seen, expected);

    // Its own trouble is nobody else's.
    field.execute("ALTER TABLE reseal_fence_events RENAME TO elsewhere").await;
    write(&mut conn, &format!("UPDATE t SET a = {}", bytes(&v1(4)))).await.unwrap();
    assert_eq!(field.number(&format!("SELECT count(*) FROM t WHERE a = {}", bytes(&v1(4)))).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn off_leaves_no_trace() {
    let field = Field::new("fence_off").await;
    let catalog = "SELECT string_agg(x, '; ' ORDER BY x) FROM (\
        SELECT 'trigger ' || tgname || tgrelid FROM pg_trigger UNION ALL \
        SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace UNION ALL \
        SELECT 'class ' || relname || coalesce(relacl::text, '') FROM pg_class WHERE relnamespace = 'public'::regnamespace UNION ALL \
        SELECT 'depends ' || count(*) FROM pg_depend) AS u(x)";
    let before: String = sqlx::query_scalar(catalog).fetch_one(&field.pool).await.unwrap();
    for mode in [FenceMode::Observe, FenceMode::Enforce] {
        field.raise(mode, bound()).await;
        let up: String = sqlx::query_scalar(catalog).fetch_one(&field.pool).await.unwrap();
        assert_ne!(up, before);
        drop(field.write(&format!("UPDATE t SET a = {}", bytes(&v1(9)))).await);
        let was = field.store.lower_fence("t").await.unwrap().unwrap();
        assert_eq!((was.mode, was.rule), (mode, bound()));
        let after: String = sqlx::query_scalar(catalog).fetch_one(&field.pool).await.unwrap();
        assert_eq!(after, before);
        assert_eq!(field.store.fence("t").await.unwrap(), None);
    }
    assert_eq!(field.store.lower_fence("t").await.unwrap(), None, "there is none to take down");
    assert_eq!(field.store.stale_writes("t", 9).await.unwrap().len(), 1, "what was recorded stays");
    let told = "SELECT string_agg(action, ' ' ORDER BY seq) FROM reseal_audit WHERE action LIKE 'fence-%'";
    let told: String = sqlx::query_scalar(told).fetch_one(&field.pool).await.unwrap();
    assert_eq!(told, "fence-observe fence-off fence-enforce fence-off");
    field.write(&format!("UPDATE t SET a = {}", bytes(&v1(10)))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_takes_the_fence_along() {
    let field = Field::new("fence_dump").await;
    field.enforce().await;
    let restored = TempPostgres::shared().database("fence_restored");
    let mut dump = Command::new("pg_dump").arg(field.database.url()).stdout(Stdio::piped()).spawn().unwrap();
    let psql = Command::new("psql")
        .args(["-q", "-v", "ON_ERROR_STOP=1", "-d", &restored.url()])
        .stdin(dump.stdout.take().unwrap())
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert!(
        dump.wait().unwrap().success() && psql.status.success(),
        "{}",
        String::from_utf8_lossy(&psql.stderr)
    );
    let mut conn = <sqlx::PgConnection as sqlx::Connection>::connect(&restored.url()).await.unwrap();
    is_fenced(write(&mut conn, &format!("UPDATE t SET a = {}", bytes(&v1(9)))).await);
    write(&mut conn, "SET session_replication_role = replica").await.unwrap();
    is_fenced(write(&mut conn, &format!("INSERT INTO t (k, b) VALUES (2, {})", text(&v1(9)))).await);
    write(&mut conn, &format!("UPDATE t SET a = {}, b = {}", bytes(&v3(KEY, 1)), text(&v3(KEY, 1))))
        .await
        .unwrap();

    // Elsewhere it is another table, and says so; all else about it is as it was made.
    let url = reseal::secret::SecretText::new(restored.url());
    let store = reseal::store::postgres::Postgres::connect(&url, None, 1).await.unwrap();
    let fence = reseal::store::Fences::fence(&store, "t").await.unwrap().unwrap();
    let [drift] = fence.drift.as_slice() else { panic!("{:?}", fence.drift) };
    assert!(drift.contains("made anew, or restored"), "{drift}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_makes_no_difference() {
    let pooler = PgBouncer::start(TempPostgres::shared());
    let database = TempPostgres::shared().database("fence_pooled");
    let url = pooler.url(&database.name);
    let field = Field::through(database, &url).await;
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let options = options.extra_float_digits(None).statement_cache_capacity(0);
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(3).connect_lazy_with(options);
    let stale = format!("UPDATE t SET a = {}", bytes(&v1(9)));
    let plain = || async {
        super::field::refusal(sqlx::raw_sql(sqlx::AssertSqlSafe(stale.as_str())).execute(&pool).await)
    };
    field.raise(FenceMode::Observe, bound()).await;
    plain().await.unwrap();
    field.execute(&format!("UPDATE t SET a = {}", bytes(&v1(1)))).await;
    field.enforce().await;
    is_fenced(plain().await);
    field.raise(FenceMode::Observe, bound()).await;
    plain().await.unwrap();
    field.store.lower_fence("t").await.unwrap();
    field.execute(&format!("UPDATE t SET a = {}", bytes(&v1(1)))).await;
    plain().await.unwrap();
    let seen: i64 = field.store.stale_writes("t", 9).await.unwrap().iter().map(|writer| writer.count).sum();
    assert_eq!(seen, 3);
}
