//! The ground that the other tests stand on holds: the servers behave as the tests assume and leave nothing behind,
//! and the oracle and the tenants are what they say.

use std::{
    collections::HashSet,
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sqlx::{
    Connection, Executor, PgConnection, Row,
    postgres::{PgConnectOptions, PgSslMode},
    sqlite::{SqliteConnectOptions, SqlitePool},
};

use crate::support::{
    oracle::{self, Cell},
    pgbouncer::{POOL_SIZE, PgBouncer},
    postgres::TempPostgres,
    python,
    supervisor::unprivileged,
    tenants::{self, Expected, Holds, Stored, Tenants},
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
fn child_with_servers(command: &mut Command) -> (Child, Vec<std::path::PathBuf>) {
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

/// Python's reading of the specification, on another implementation of AES-GCM and HKDF. It opens what it is given
/// and seals the same plaintext itself.
const PYTHON: &str = r#"
import json, os, struct, sys
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

given = json.load(sys.stdin)
key, plaintext = bytes.fromhex(given["key"]), bytes.fromhex(given["plaintext"])

def derive(length, info):
    return HKDF(SHA256(), length, b"", info).derive(key)

def lp(text):
    return struct.pack(">I", len(text.encode())) + text.encode()

key_id = derive(16, b"reseal v3 key id")
cell = derive(32, b"reseal v3 value" + b"".join(map(lp, given["cell"])))
dek = bytes(given["encrypted_dek"])
v2, v3 = b"\x02" + struct.pack(">H", len(dek)) + dek, b"\x03" + key_id
formats = {"v1": (b"", key, b""), "v2": (v2, key, b""), "v3": (v3, cell, v3)}

answer = {"key_id": key_id.hex(), "static_id": derive(16, b"reseal static key id").hex()}
for name, (header, key, aad) in formats.items():
    value = bytes.fromhex(given[name])
    assert value.startswith(header), name
    nonce, sealed = value[len(header):][:12], value[len(header):][12:]
    assert AESGCM(key).decrypt(nonce, sealed, aad) == plaintext, name
    nonce = os.urandom(12)
    answer[name] = (header + nonce + AESGCM(key).encrypt(nonce, plaintext, aad)).hex()
print(json.dumps(answer))
"#;

#[test]
fn the_oracle_agrees_with_an_independent_implementation() {
    let (key, encrypted_dek): (oracle::Key, [u8; 184]) =
        (rand::random(), std::array::from_fn(|_| rand::random()));
    // "Zoë" has fewer characters than bytes: lp() counts bytes.
    let cell = Cell { table: "org_instances", column: "database_url_encrypted", row: "Zoë" };
    for plaintext in [&b""[..], b"x", b"postgres://tenant:pw@ep-1.neon.tech/main?sslmode=require"] {
        let question = json!({
            "key": hex::encode(key),
            "plaintext": hex::encode(plaintext),
            "cell": [cell.table, cell.column, cell.row],
            "encrypted_dek": encrypted_dek.to_vec(),
            "v1": hex::encode(oracle::seal_v1(&key, None, plaintext)),
            "v2": hex::encode(oracle::seal_v2(&key, &encrypted_dek, plaintext)),
            "v3": hex::encode(oracle::seal_v3(&key, cell, plaintext)),
        });
        let answer = ask_python(&question);
        let bytes = |name: &str| hex::decode(answer[name].as_str().unwrap()).unwrap();

        assert_eq!(bytes("key_id"), oracle::key_id(&key));
        assert_eq!(bytes("static_id"), oracle::static_id(&key));
        let v1 = oracle::open_v1(&key, &bytes("v1"));
        assert_eq!(v1.as_deref(), Some(plaintext));
        let v2 = oracle::open_v2(&bytes("v2"), |dek| (dek == encrypted_dek).then_some(key));
        assert_eq!(v2.as_deref(), Some(plaintext));
        let v3 = oracle::open_v3(&bytes("v3"), cell, |id| (id == oracle::key_id(&key)).then_some(key));
        assert_eq!(v3.as_deref(), Some(plaintext));
    }
}

fn ask_python(question: &Value) -> Value {
    let mut python = Command::new(python())
        .args(["-c", PYTHON])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(question.to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_oracle_rejects_what_it_must() {
    let (key, other_key): (oracle::Key, oracle::Key) = (rand::random(), rand::random());
    let cell = Cell { table: "t", column: "c", row: "1" };
    let v1 = oracle::seal_v1(&key, Some([7; 12]), b"secret");
    let v2 = oracle::seal_v2(&key, b"wrapped", b"secret");
    let v3 = oracle::seal_v3(&key, cell, b"secret");
    let open_v2 = |value: &[u8]| oracle::open_v2(value, |_| Some(key));
    let open_v3 = |value: &[u8], cell| oracle::open_v3(value, cell, |_| Some(key));

    for length in 0..v1.len() {
        assert_eq!(oracle::open_v1(&key, &v1[..length]), None);
    }
    for length in 0..v2.len() {
        assert_eq!(open_v2(&v2[..length]), None);
    }
    for length in 0..v3.len() {
        assert_eq!(open_v3(&v3[..length], cell), None);
    }
    for bit in 0..v3.len() * 8 {
        let mut flipped = v3.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open_v3(&flipped, cell), None, "bit {bit}");
    }
    assert_eq!(oracle::open_v1(&other_key, &v1), None);
    assert_eq!(oracle::open_v2(&v2, |_| Some(other_key)), None);
    assert_eq!(oracle::open_v3(&v3, cell, |_| Some(other_key)), None);
    assert_eq!(oracle::open_v3(&v3, cell, |_| None), None);
    assert_eq!(open_v3(&v3, Cell { table: "tc", column: "", ..cell }), None);
    assert_eq!(open_v3(&v3, Cell { row: "2", ..cell }), None);
}

#[test]
fn v1_values_can_be_made_to_look_like_others() {
    let key: oracle::Key = rand::random();
    for first in [0x02, 0x03] {
        let value = oracle::v1_with_first_byte(&key, first, b"secret");
        assert_eq!(value[0], first);
        assert_eq!(oracle::open_v1(&key, &value).unwrap(), b"secret");
    }
    for plaintext in [vec![1; 4], vec![2; 90], vec![3; 9000]] {
        for _ in 0..50 {
            let value = oracle::v1_that_parses_as_v2(&key, &plaintext);
            assert!(oracle::split_v2(&value).is_some());
            assert_eq!(oracle::open_v2(&value, |_| Some(key)), None);
            assert_eq!(oracle::open_v1(&key, &value).unwrap(), plaintext);
        }
    }
}

/// Opens every value with the oracle and compares.
fn differences(expected: &Expected, stored: &[Stored], key: &oracle::Key) -> Vec<String> {
    expected.differences(stored, |_, value| oracle::open_v1(key, value))
}

#[tokio::test]
async fn tenants_fill_postgres_and_every_difference_is_seen() {
    let database = TempPostgres::shared().database("tenants");
    let (pool, key) = (database.pool(), rand::random());
    let expected = Tenants { seed: 1, rows: 50_000, key: &key }.fill_postgres(&pool).await;
    let mut stored = tenants::stored_in_postgres(&pool).await;

    assert_eq!(expected.0.len(), 50_000);
    assert_eq!(differences(&expected, &stored, &key), Vec::<String>::new());
    assert_eq!(differences(&expected, &stored, &rand::random()).len(), expected.sealed());
    let values = || stored.iter().flat_map(|row| &row.values);
    for first in [0x02, 0x03] {
        let alike = values().flatten().filter(|value| value.first() == Some(&first)).count();
        assert!((200..600).contains(&alike), "{alike} values start with {first}");
    }
    assert!((14_000..16_000).contains(&values().filter(|value| value.is_none()).count()));
    assert!(values().flatten().any(Vec::is_empty));
    assert!(expected.0.values().flatten().any(|holds| *holds == Holds::Sealed(String::new())));

    // Now break it in every way that a re-key could.
    let full =
        stored.iter().position(|row| row.values.iter().flatten().filter(|v| v.len() > 28).count() == 2);
    stored.swap(0, full.unwrap());
    let without = stored.iter().position(|row| row.values[1].is_none()).unwrap();
    let [urls, other_urls] = &mut stored[0].values;
    std::mem::swap(urls, other_urls);
    stored[without].values[1] = Some(vec![1]);
    let last = stored.pop().unwrap();
    stored.push(Stored { org_id: "not-a-tenant".to_owned(), values: [None, None] });
    let mut found = differences(&expected, &stored, &key);
    found.sort();
    let mut known = vec![
        format!("{} database_url_encrypted: opens to another plaintext", stored[0].org_id),
        format!("{} redis_url_encrypted: opens to another plaintext", stored[0].org_id),
        format!("{} redis_url_encrypted: held nothing and now has a value", stored[without].org_id),
        format!("{}: the row is gone", last.org_id),
        "not-a-tenant: not one of the rows".to_owned(),
    ];
    known.sort();
    assert_eq!(found, known);
    stored[0].values = [None, Some(vec![0; 40])];
    let found = differences(&expected, &stored, &key);
    assert!(found.contains(&format!("{} database_url_encrypted: became NULL", stored[0].org_id)));
    assert!(found.contains(&format!("{} redis_url_encrypted: does not open", stored[0].org_id)));
}

#[tokio::test]
async fn tenants_are_the_same_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        SqliteConnectOptions::new().filename(folder.path().join("tenants.db")).create_if_missing(true);
    let sqlite = SqlitePool::connect_with(options).await.unwrap();
    let database = TempPostgres::shared().database("tenants");
    let key = rand::random();
    let tenants = Tenants { seed: 2, rows: 2_345, key: &key };

    let expected = tenants.fill_sqlite(&sqlite).await;
    assert_eq!(expected, tenants.fill_postgres(&database.pool()).await);
    assert_ne!(
        expected,
        Tenants { seed: 3, ..tenants }
            .fill_postgres(&TempPostgres::shared().database("tenants").pool())
            .await
    );

    let stored = tenants::stored_in_sqlite(&sqlite).await;
    assert_eq!(differences(&expected, &stored, &key), Vec::<String>::new());
    let one = &stored[17];
    let row = sqlx::query("SELECT status, created_at, typeof(org_id), typeof(database_url_encrypted) FROM org_instances WHERE org_id = ?")
        .bind(&one.org_id)
        .fetch_one(&sqlite)
        .await
        .unwrap();
    assert_eq!((row.get::<&str, _>(2), row.get::<&str, _>(3)), ("text", "blob"));
}
