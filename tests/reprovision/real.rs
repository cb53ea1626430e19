//! One tenant whose database is a real PostgreSQL: logins with the old and the new password, an intruder's role, and the
//! machine's session are real.

use reseal::{
    journal::Hook,
    reprovision::{Ending, Strategy},
};
use sqlx::{Connection, PgConnection};

use super::world::{APP, Shape, World, asked};
use crate::support::{postgres::TempPostgres, vendors::fresh};

async fn logs_in(url: &str) -> bool {
    PgConnection::connect(url).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn old_passwords_and_unknown_roles_are_refused_by_the_server_itself() {
    // A cluster of its own: every role that can log in to it is the tenant's, or a stranger.
    let cluster: &'static TempPostgres = Box::leak(Box::new(TempPostgres::start()));
    let (role, intruder, password) = ("tenant_owner", "backdoor", fresh::value("npg_"));
    cluster.login(role, &password);
    cluster.execute(&format!("ALTER ROLE {role} CREATEROLE"));
    cluster.execute(&format!("CREATE DATABASE app OWNER {role}"));
    let old = cluster.tcp_url("app", role, &password);
    let mut owner = PgConnection::connect(&old).await.unwrap();
    let made =
        format!("CREATE ROLE {intruder} LOGIN PASSWORD 'open'; CREATE TABLE kept AS SELECT 7 AS number");
    sqlx::raw_sql(sqlx::AssertSqlSafe(made)).execute(&mut owner).await.unwrap();
    let back = cluster.tcp_url("app", intruder, "open");
    assert!(logs_in(&back).await);

    let world = World::start(Shape { tenants: 1, ..Shape::default() }).await;
    let tenant = &world.tenants[0];
    world.neon.behind(&tenant.home.branch, cluster, "app", role, &password);
    world.fly.configure(APP, &tenant.machine, "DATABASE_URL", &old);
    let ending = world.drive(Hook::default(), &asked(Strategy::Reset, false)).await.unwrap();
    let saga = world.saga(&tenant.org).await;
    assert_eq!(ending, Ending::Complete, "{:?}", saga.why);

    assert!(owner.ping().await.is_err(), "the machine's session was dropped");
    assert!(!logs_in(&old).await && !logs_in(&back).await);
    let works = world.works(Hook::default()).await;
    let [new, _] = world.urls(&works, &tenant.org).await;
    let mut session = PgConnection::connect(&new.expect("a URL in the row")).await.unwrap();
    let kept: (i32,) = sqlx::query_as("SELECT number FROM kept").fetch_one(&mut session).await.unwrap();
    assert_eq!(kept.0, 7);
    assert!(saga.detail.contains(intruder), "{}", saga.detail);
}
