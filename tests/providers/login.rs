//! Logins are live, dead or unknown, as real servers say.

use std::{net::TcpListener, time::Duration};

use reseal::providers::{
    Probe,
    login::{PostgresLogin, RedisLogin},
};

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
