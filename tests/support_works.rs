//! The ground that the other tests stand on holds: the servers behave as the tests assume and leave nothing behind,
//! and ([`values`]) the oracle and the tenants are what they say.

mod values;

use std::{
    collections::HashSet,
    env, fs,
    io::{BufRead, BufReader},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use sqlx::{
    Connection, Executor, PgConnection, Row,
    postgres::{PgConnectOptions, PgSslMode},
};

use crate::support::{
    pgbouncer::{POOL_SIZE, PgBouncer},
    postgres::TempPostgres,
    supervisor::unprivileged,
};

/// A connection that a pooler in transaction mode accepts.
async fn connect_through_pooler(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().unwrap();
    PgConnection::connect_with(&options.extra_float_digits(None)).await.unwrap()
}

/// The server process that runs a transaction of this client, which is one message and so one transaction.
async fn backend(client: &mut PgConnection) -> i32 {
    sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(client).await.unwrap().get(0)
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (one, other) = (TempPostgres::shared().database("own"), TempPostgres::shared().database("own"));
    assert_ne!(one.name, other.name);
    one.pool().execute("CREATE TABLE t AS SELECT 1").await.unwrap();
    let missing = other.pool().execute("SELECT * FROM t").await.unwrap_err();
    assert!(missing.to_string().contains("does not exist"), "{missing}");

    // Somebody is connected, which does not keep the database.
    let name = one.name.clone();
    let guest = PgConnection::connect(&one.url()).await.unwrap();
    drop(one);
    let count =
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM pg_database WHERE datname = $1").bind(name);
    assert_eq!(count.fetch_one(&other.pool()).await.unwrap(), 0);
    drop(guest);
}

#[tokio::test]
async fn a_role_needs_its_password_over_tcp() {
    let postgres = TempPostgres::shared();
    let database = postgres.database("role");
    postgres.login(&database.name, "right");

    let url = postgres.tcp_url(&database.name, &database.name, "right");
    let mut role = PgConnection::connect(&url).await.unwrap();
    let superuser: bool = sqlx::query_scalar("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        .fetch_one(&mut role)
        .await
        .unwrap();
    assert!(!superuser);

    let url = postgres.tcp_url(&database.name, &database.name, "wrong");
    let refused = PgConnection::connect(&url).await.unwrap_err();
    assert!(refused.to_string().contains("password authentication failed"), "{refused}");
}

#[tokio::test]
async fn a_crash_loses_nothing_committed_and_all_else() {
    let postgres = TempPostgres::start();
    let database = postgres.database("crash");
    let mut writer = PgConnection::connect(&database.url()).await.unwrap();
    writer.execute("CREATE TABLE t (n int)").await.unwrap();
    writer.execute("INSERT INTO t SELECT generate_series(1, 1000)").await.unwrap();
    writer.execute("BEGIN; INSERT INTO t VALUES (1001)").await.unwrap();

    postgres.restart_immediate();

    writer.execute("COMMIT").await.unwrap_err();
    let mut reader = PgConnection::connect(&database.url()).await.unwrap();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&mut reader).await.unwrap();
    assert_eq!(rows, 1000);
    let fsync: String = sqlx::query_scalar("SHOW fsync").fetch_one(&mut reader).await.unwrap();
    assert_eq!(fsync, "on");
    let log = fs::read_to_string(postgres.folder().join("log")).unwrap();
    assert!(log.contains("database system was not properly shut down"), "{log}");
}

#[tokio::test]
async fn a_stopped_cluster_starts_again_where_it_was() {
    let postgres = TempPostgres::start_with(&["max_connections = 7"]);
    let (database, port) = (postgres.database("stop"), postgres.port());

    postgres.stop();
    PgConnection::connect(&database.url()).await.unwrap_err();

    postgres.start_again();
    assert_eq!(postgres.port(), port);
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    let limit: String = sqlx::query_scalar("SHOW max_connections").fetch_one(&mut connection).await.unwrap();
    assert_eq!(limit, "7");

    let folder = postgres.folder().to_owned();
    drop(database);
    drop(postgres);
    assert!(!folder.exists());
    assert_eq!(processes_naming(&folder), 0);
}

#[tokio::test]
async fn tls_is_required_and_proves_the_host() {
    let postgres = TempPostgres::start_with_tls();
    postgres.login("guest", "guest");
    let options: PgConnectOptions = postgres.tcp_url("postgres", "guest", "guest").parse().unwrap();
    let verified = options.clone().ssl_mode(PgSslMode::VerifyFull);
    let refusal = async |options: PgConnectOptions| {
        PgConnection::connect_with(&options).await.expect_err("it is refused").to_string()
    };

    let mut guest = PgConnection::connect_with(&verified.clone().ssl_root_cert(postgres.ca())).await.unwrap();
    let encrypted: bool = sqlx::query_scalar("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        .fetch_one(&mut guest)
        .await
        .unwrap();
    assert!(encrypted);

    let plain = refusal(options.ssl_mode(PgSslMode::Disable)).await;
    assert!(plain.contains("no encryption"), "{plain}");
    let stranger = refusal(verified.clone().ssl_root_cert(postgres.untrusted_ca())).await;
    assert!(stranger.contains("certificate"), "{stranger}");
    let other_name = refusal(verified.host("127.0.0.1").ssl_root_cert(postgres.ca())).await;
    assert!(other_name.contains("not valid for name"), "{other_name}");
}

#[tokio::test]
async fn the_pooler_shares_server_connections_between_transactions() {
    let database = TempPostgres::shared().database("pooled");
    let bouncer = PgBouncer::start(TempPostgres::shared());
    let url = bouncer.url(&database.name);

    // Two clients, connected at the same time; their transactions run on one server connection.
    let (mut one, mut other) = (connect_through_pooler(&url).await, connect_through_pooler(&url).await);
    assert_eq!(backend(&mut one).await, backend(&mut other).await);

    // While the first is inside a transaction, the second runs on another one.
    one.execute("BEGIN").await.unwrap();
    let held = backend(&mut one).await;
    assert_ne!(backend(&mut other).await, held);
    one.execute("COMMIT").await.unwrap();

    let mut clients = Vec::new();
    for _ in 0..3 * POOL_SIZE {
        clients.push(connect_through_pooler(&url).await);
    }
    let backends = futures_util::future::join_all(clients.iter_mut().map(backend)).await;
    let distinct = backends.iter().collect::<HashSet<_>>().len();
    assert!(distinct <= POOL_SIZE, "{distinct} server connections");
}

#[tokio::test]
async fn the_pooler_loses_named_statements() {
    let database = TempPostgres::shared().database("named");
    let bouncer = PgBouncer::start(TempPostgres::shared());
    let url = bouncer.url(&database.name);
    let (mut one, mut other) = (connect_through_pooler(&url).await, connect_through_pooler(&url).await);

    // sqlx names a statement unless told not to. It is prepared on one server connection, and then the client's next
    // transaction runs on another.
    let query = || sqlx::query_scalar::<_, i32>("SELECT 1 + $1").bind(1);
    assert_eq!(query().fetch_one(&mut one).await.unwrap(), 2);
    other.execute("BEGIN").await.unwrap();
    let lost = query().fetch_one(&mut one).await.unwrap_err();
    assert!(lost.to_string().contains("does not exist"), "{lost}");

    // An unnamed one in an explicit transaction works.
    let unnamed = query().persistent(false).fetch_one(&mut other).await;
    assert_eq!(unnamed.unwrap(), 2);
}

#[tokio::test]
async fn the_pooler_refuses_start_up_parameters() {
    let bouncer = PgBouncer::start(TempPostgres::shared());
    let options: PgConnectOptions = bouncer.url("postgres").parse().unwrap();
    let refused = PgConnection::connect_with(&options.extra_float_digits(2)).await.unwrap_err();
    assert!(refused.to_string().contains("unsupported startup parameter"), "{refused}");
}

/// Started by the tests below as a process of its own. It runs servers until its input ends.
#[test]
#[ignore = "other tests start it"]
fn servers_of_a_child() {
    let postgres = TempPostgres::start();
    let bouncer = PgBouncer::start(&postgres);
    for folder in [TempPostgres::shared().folder(), postgres.folder(), bouncer.folder()] {
        println!("\nfolder {}", folder.display());
    }
    std::io::stdin().lines().for_each(drop);
}

/// A child process with two clusters and a pooler, and their folders.
fn child_with_servers(command: &mut Command) -> (Child, Vec<PathBuf>) {
    let mut child = command
        .args(["--exact", "support_works::servers_of_a_child", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
    let folders =
        lines.filter_map(|line| line.strip_prefix("folder ").map(Into::into)).take(3).collect::<Vec<_>>();
    assert_eq!(folders.len(), 3, "the child did not start its servers");
    (child, folders)
}

#[test]
fn a_killed_test_process_leaves_nothing_behind() {
    let (mut child, folders) = child_with_servers(&mut Command::new(env::current_exe().unwrap()));
    for folder in &folders {
        assert_ne!(processes_naming(folder), 0, "{}", folder.display());
    }

    child.kill().unwrap();
    child.wait().unwrap();

    let killed = Instant::now();
    for folder in &folders {
        while folder.exists() || processes_naming(folder) > 0 {
            assert!(killed.elapsed() < Duration::from_secs(30), "{} is left", folder.display());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// As root the servers run as another user; from an account like any other they run as that account.
#[test]
fn servers_start_from_an_ordinary_account() {
    // That account can't read root's home, where the build may be.
    let place = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let suite = place.path().join("suite");
    fs::copy(env::current_exe().unwrap(), &suite).unwrap();

    let (mut child, folders) = child_with_servers(&mut unprivileged(&suite));
    let user = fs::metadata(format!("/proc/{}", child.id())).unwrap().uid();
    assert_ne!(user, 0);
    for folder in &folders {
        assert_eq!(fs::metadata(folder).unwrap().uid(), user);
        assert_eq!(fs::metadata(folder).unwrap().mode() & 0o777, 0o700);
    }

    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let ended = Instant::now();
    while folders.iter().any(|folder| folder.exists()) {
        assert!(ended.elapsed() < Duration::from_secs(30), "{folders:?} are left");
        thread::sleep(Duration::from_millis(50));
    }
}

/// How many running processes have a path in `folder` in their command line.
fn processes_naming(folder: &Path) -> usize {
    let folder = format!("{}/", folder.display());
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("cmdline"));
    // Most of what is in /proc is no process, and some end while we look.
    let lines = processes.filter_map(|file| fs::read(file).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(&folder)).count()
}
