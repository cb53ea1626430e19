//! Logins are live, dead or unknown, as real servers say; and a tenant's database says who is in it.

use std::{net::TcpListener, str::FromStr, time::Duration};

use reseal::providers::{
    Patience, Probe,
    login::{PostgresLogin, RedisLogin, TenantDatabase},
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions};

use super::at_hand::{assert_dead, assert_live, secret, unknown};
use crate::support::{postgres::TempPostgres, redis::TempRedis};

const POSTGRES: fn() -> PostgresLogin = || PostgresLogin::new(Duration::from_secs(10));
const REDIS: fn() -> RedisLogin = || RedisLogin::new(Duration::from_secs(10));

#[tokio::test]
async fn a_changed_password_is_dead_in_postgres() {
    let postgres = TempPostgres::shared();
    let database = postgres.database("login");
    let role = &database.name;
    postgres.login(role, "first");
    let [first, second] = ["first", "second"].map(|password| secret(&postgres.tcp_url(role, role, password)));
    assert_live(&POSTGRES().probe(&first).await);
    assert_dead(&POSTGRES().probe(&second).await);

    postgres.execute(&format!("ALTER ROLE {role} PASSWORD 'second'"));
    assert_dead(&POSTGRES().probe(&first).await);
    assert_live(&POSTGRES().probe(&second).await);

    postgres.execute(&format!("ALTER ROLE {role} NOLOGIN"));
    assert_dead(&POSTGRES().probe(&second).await);
    let gone = secret(&postgres.tcp_url(role, "nobody_of_this_name", "second"));
    assert_dead(&POSTGRES().probe(&gone).await);
}

#[tokio::test]
async fn what_says_nothing_of_the_role_is_unknown_in_postgres() {
    let postgres = TempPostgres::shared();
    let database = postgres.database("login");
    let role = &database.name;
    postgres.login(role, "right");

    let missing = secret(&postgres.tcp_url("no_such_database", role, "right"));
    assert_eq!(unknown(&POSTGRES().probe(&missing).await), "postgres could not log in now: SQLSTATE 3D000");
    postgres.execute(&format!("ALTER ROLE {role} CONNECTION LIMIT 0"));
    let full = secret(&postgres.tcp_url(role, role, "right"));
    assert_eq!(unknown(&POSTGRES().probe(&full).await), "postgres could not log in now: SQLSTATE 53300");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = secret(&format!("postgres://u:p@127.0.0.1:{port}/d"));
    let soon = PostgresLogin::new(Duration::from_millis(50));
    assert_eq!(unknown(&soon.probe(&url).await), "postgres could not log in now: time-out");
    drop(silent);
    assert_eq!(unknown(&soon.probe(&url).await), "postgres could not log in now: it was not reached");
}

#[tokio::test]
async fn a_server_of_postgres_that_is_not_trusted_says_nothing() {
    let postgres = TempPostgres::start_with_tls();
    postgres.login("cp", "right");
    let url = |authority: &str| {
        let url = postgres.tcp_url("postgres", "cp", "right");
        secret(&format!("{url}?sslmode=verify-full&sslrootcert={authority}"))
    };
    assert_live(&POSTGRES().probe(&url(postgres.ca().to_str().unwrap())).await);
    let untrusted = POSTGRES().probe(&url(postgres.untrusted_ca().to_str().unwrap())).await;
    let text = "postgres could not log in now: TLS was refused, or the certificate not trusted";
    assert_eq!(unknown(&untrusted), text);
}

#[tokio::test]
async fn a_changed_password_is_dead_in_redis() {
    let redis = TempRedis::start("first");
    let url = |user: &str, password: &str| {
        secret(&format!("redis://{user}:{password}@127.0.0.1:{}/0", redis.port()))
    };
    for user in ["default", ""] {
        assert_live(&REDIS().probe(&url(user, "first")).await);
        assert_dead(&REDIS().probe(&url(user, "second")).await);
    }
    redis.change_password("first", "second");
    assert_dead(&REDIS().probe(&url("default", "first")).await);
    assert_live(&REDIS().probe(&url("default", "second")).await);
    assert_dead(&REDIS().probe(&url("somebody", "second")).await);
}

#[tokio::test]
async fn what_says_nothing_of_the_password_is_unknown_in_redis() {
    // Full: refused before anybody looked at the password.
    let full = TempRedis::start_with("--requirepass right --maxclients 1");
    let url = secret(&format!("redis://:right@127.0.0.1:{}", full.port()));
    let guest = std::net::TcpStream::connect(("127.0.0.1", full.port())).unwrap();
    let text = unknown(&REDIS().probe(&url).await);
    assert_eq!(text, "redis could not log in now: it answered ERR");
    drop(guest);

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = secret(&format!("redis://u:p@127.0.0.1:{port}"));
    let soon = RedisLogin::new(Duration::from_millis(50));
    assert_eq!(unknown(&soon.probe(&url).await), "redis could not log in now: time-out");
    drop(silent);
    let text = "redis could not log in now: it was not reached, or its certificate not trusted";
    assert_eq!(unknown(&soon.probe(&url).await), text);
}

#[tokio::test]
async fn a_server_of_redis_that_is_not_trusted_says_nothing() {
    let redis = TempRedis::start_with_tls("right");
    let place = format!("localhost:{}", redis.port());
    let text = "redis could not log in now: it was not reached, or its certificate not trusted";
    for password in ["right", "wrong"] {
        let life = REDIS().probe(&secret(&format!("rediss://default:{password}@{place}"))).await;
        assert_eq!(unknown(&life), text);
    }
    // A URL can't say that it does not matter.
    let life = REDIS().probe(&secret(&format!("rediss://default:right@{place}/#insecure"))).await;
    assert_eq!(
        unknown(&life),
        "redis was not asked to log in: it is not a redis URL with a password and a host"
    );
}

#[tokio::test]
async fn what_is_no_such_url_is_not_tried_and_not_shown() {
    for text in ["hunter2", "postgres://hunter2", "redis://:hunter2@h", "postgres://u@hunter2/d", ""] {
        let said = unknown(&POSTGRES().probe(&secret(text)).await);
        let wanted =
            "postgres was not asked to log in: it is not a postgres URL with a user, a password and a host";
        assert_eq!(said, wanted, "{text}");
    }
    for text in ["hunter2", "redis://hunter2", "postgres://u:hunter2@h/d", "redis://:hunter2@h/no-number", ""]
    {
        let said = unknown(&REDIS().probe(&secret(text)).await);
        assert_eq!(
            said, "redis was not asked to log in: it is not a redis URL with a password and a host",
            "{text}"
        );
    }
}

const TENANT: fn() -> TenantDatabase = || TenantDatabase::new(Duration::from_secs(10));

#[tokio::test]
async fn the_sessions_of_others_are_counted_whoever_asks() {
    let postgres = TempPostgres::shared();
    let (database, elsewhere) = (postgres.database("tenant"), postgres.database("tenant"));
    let (owner, other) = (&database.name, &elsewhere.name);
    postgres.login(owner, "right");
    postgres.login(other, "right");
    let url = secret(&postgres.tcp_url(&database.name, owner, "right"));
    let superuser = PgConnection::connect(&database.url()).await.unwrap();
    assert_eq!(TENANT().sessions(&url).await.unwrap(), 0, "the cluster's own superuser is nobody");
    let open = async |database: &str, role: &str| {
        PgConnection::connect(&postgres.tcp_url(database, role, "right")).await.unwrap()
    };
    // What another role does is hidden from this one, but not that it is there.
    let sessions = [open(owner, owner).await, open(owner, other).await];
    let unrelated = open(other, other).await;
    assert_eq!(TENANT().sessions(&url).await.unwrap(), 2);
    for session in sessions.into_iter().chain([unrelated, superuser]) {
        session.close().await.unwrap();
    }
    let gone = Patience { every: Duration::from_millis(5), at_most: Duration::from_secs(5) };
    let gone = gone.until(async || Ok::<_, ()>((TENANT().sessions(&url).await.unwrap() == 0).then_some(())));
    assert_eq!(gone.await, Ok(Some(())));
}

#[tokio::test]
async fn idle_sessions_are_ended_and_no_other() {
    let postgres = TempPostgres::shared();
    let database = postgres.database("tenant");
    let (owner, stranger) = (&database.name, format!("{}_x", database.name));
    postgres.login(owner, "right");
    postgres.login(&stranger, "right");
    let url = secret(&postgres.tcp_url(owner, owner, "right"));
    let open =
        async |role: &str| PgConnection::connect(&postgres.tcp_url(owner, role, "right")).await.unwrap();
    let (mut idle, mut busy, mut others) = (open(owner).await, open(owner).await, open(&stranger).await);
    busy.execute("BEGIN").await.unwrap();
    TENANT().end_idle_sessions(&url).await.unwrap();
    assert!(idle.ping().await.is_err(), "nobody used it");
    busy.execute("SELECT 1").await.unwrap();
    others.ping().await.unwrap();
}

#[tokio::test]
async fn a_role_that_was_made_by_sql_is_found_and_kept_out() {
    let postgres = TempPostgres::shared();
    let database = postgres.database("tenant");
    let owner = &database.name;
    postgres.login(owner, "right");
    let odd = format!("{owner} \" \\' $$;");
    let quoted = odd.replace('"', "\"\"");
    postgres.execute(&format!(
        "ALTER ROLE {owner} CREATEROLE; CREATE ROLE {owner}_no NOLOGIN; GRANT pg_signal_backend TO {owner}"
    ));
    let url = secret(&postgres.tcp_url(owner, owner, "right"));
    let mut intruder = PgConnection::connect(url.expose()).await.unwrap();
    // In a database that is prepared against being looked at.
    let hide = format!(
        "CREATE ROLE \"{quoted}\" LOGIN PASSWORD 'x'; CREATE SCHEMA hide; \
         CREATE VIEW hide.pg_roles AS SELECT 1::oid AS oid, 'nobody'::name AS rolname, true AS rolcanlogin; \
         CREATE VIEW hide.pg_stat_activity AS SELECT 1 AS pid, 1::oid AS usesysid, 'x'::name AS usename, \
         'x'::name AS datname WHERE false; \
         ALTER ROLE {owner} SET search_path = hide, pg_catalog; ALTER ROLE {owner} SET standard_conforming_strings = off"
    );
    postgres.execute(&format!("GRANT CREATE ON DATABASE {owner} TO {owner}"));
    sqlx::raw_sql(AssertSqlSafe(hide)).execute(&mut intruder).await.unwrap();
    let listed = async || {
        let all = TENANT().login_roles(&url).await.unwrap();
        all.into_iter().filter(|role| role == "postgres" || role.starts_with(owner)).collect::<Vec<_>>()
    };
    assert_eq!(listed().await, [&**owner, &*odd]);
    assert_eq!(TENANT().sessions(&url).await.unwrap(), 1);

    let way = PgConnectOptions::from_str(url.expose()).unwrap().username(&odd).password("x");
    let mut session = way.connect().await.unwrap();
    for _ in 0..2 {
        TENANT().forbid_login(&url, &odd).await.unwrap();
    }
    assert!(session.ping().await.is_err(), "its session is over");
    assert!(way.connect().await.unwrap_err().to_string().contains("is not permitted to log in"));
    assert_eq!(listed().await, [&**owner]);
    TENANT().forbid_login(&url, "nobody_of_this_name").await.expect("one that is gone is done");
}

#[tokio::test]
async fn what_keeps_from_looking_is_said() {
    let postgres = TempPostgres::shared();
    let database = postgres.database("tenant");
    let owner = &database.name;
    postgres.login(owner, "right");
    let url = |database: &str, password: &str| secret(&postgres.tcp_url(database, owner, password));
    let error = TENANT().forbid_login(&url(owner, "right"), "postgres").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "postgres does not let this credential forbid a role to log in: 403 (42501)"
    );
    let error = TENANT().login_roles(&url(owner, "wrong")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "postgres does not let this credential list the roles that log in: 401 (28P01)"
    );
    let error = TENANT().sessions(&url("no_such_database", "right")).await.unwrap_err();
    assert_eq!(error.to_string(), "postgres could not count the sessions of a database now: SQLSTATE 3D000");
    let error = TENANT().sessions(&secret("postgres://u:hunter2@")).await.unwrap_err().to_string();
    assert!(error.starts_with("postgres was not asked to count") && !error.contains("hunter2"), "{error}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = secret(&format!("postgres://u:p@{}/d", silent.local_addr().unwrap()));
    let soon = TenantDatabase::new(Duration::from_millis(50));
    let error = soon.sessions(&closed).await.unwrap_err();
    assert_eq!(error.to_string(), "postgres could not count the sessions of a database now: time-out");
    drop(silent);
    let error = soon.sessions(&closed).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "postgres could not count the sessions of a database now: it was not reached"
    );
    // One that may not end the sessions of others still keeps them out.
    postgres.execute(&format!("ALTER ROLE {owner} CREATEROLE"));
    let right = url(owner, "right");
    let mut session = PgConnection::connect(right.expose()).await.unwrap();
    let sql = format!("CREATE ROLE {owner}_b LOGIN PASSWORD 'x'");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut session).await.unwrap();
    let b = secret(&postgres.tcp_url(owner, &format!("{owner}_b"), "x"));
    assert_live(&POSTGRES().probe(&b).await);
    TENANT().forbid_login(&right, &format!("{owner}_b")).await.unwrap();
    assert_dead(&POSTGRES().probe(&b).await);
    session.close().await.unwrap();
}
