//! Real PostgreSQL: one cluster that the suite shares, where each test has a database of its own, and private
//! clusters for tests that restart the server or configure it.
//!
//! On the socket the superuser needs no password, and the folder lets in nobody else. Over TCP, on the loopback
//! interface only, roles log in with a password (SCRAM).

use std::{
    fs,
    future::Future,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, postgres::PgPoolOptions};

use super::supervisor::{Supervisor, find_program, unprivileged};

/// A cluster in a folder of its own; killed and removed on drop, or when the process ends.
pub(crate) struct TempPostgres {
    supervisor: Mutex<Supervisor>,
    folder: PathBuf,
    port: u16,
}

/// Whether TCP connections are encrypted.
enum Tcp {
    Plain,
    Tls,
}

impl TempPostgres {
    /// The cluster that the whole suite shares. A crash of the machine would corrupt it: it doesn't wait for the disk.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<TempPostgres> = LazyLock::new(|| TempPostgres::start_with(&["fsync = off"]));
        &SHARED
    }

    /// A private cluster, as durable as PostgreSQL is by default.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// A private cluster with more lines of `postgresql.conf`, such as `max_connections = 7`.
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        Self::launch(settings, Tcp::Plain, "")
    }

    /// A hot standby that follows this cluster, and takes no write.
    pub(crate) fn standby(&self) -> Self {
        let primary = format!("host={} port={} user=postgres", self.folder.display(), self.port);
        Self::launch(&[], Tcp::Plain, &primary)
    }

    /// A private cluster whose TCP connections must be encrypted. Its certificate is for `localhost`, and is signed
    /// by [`ca`](Self::ca).
    pub(crate) fn start_with_tls() -> Self {
        let certificate = ["ssl = on", "ssl_cert_file = '../server.crt'", "ssl_key_file = '../server.key'"];
        Self::launch(&certificate, Tcp::Tls, "")
    }

    fn launch(settings: &[&str], tcp: Tcp, primary: &str) -> Self {
        let programs = programs();
        let mut supervisor =
            Supervisor::start(include_str!("postgres.sh"), &[programs.as_os_str(), primary.as_ref()]);
        let folder = PathBuf::from(supervisor.answer());

        let host = match tcp {
            Tcp::Plain => "host",
            Tcp::Tls => {
                make_certificates(&folder);
                "hostssl"
            }
        };
        let access = format!(
            "local all all trust\nlocal replication all trust\n{host} all all 127.0.0.1/32 scram-sha-256\n"
        );
        fs::write(folder.join("data/pg_hba.conf"), access).expect("the cluster's folder is ours");
        let mut lines = vec![
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!("unix_socket_directories = '{}'", folder.display()),
            "max_connections = 200".to_owned(),
            "log_statement = none".to_owned(),
        ];
        if !primary.is_empty() {
            lines.push(format!("primary_conninfo = '{primary}'"));
        }
        lines.extend(settings.iter().map(|&line| line.to_owned()));
        fs::write(folder.join("data/postgresql.auto.conf"), lines.join("\n") + "\n")
            .expect("the cluster's folder is ours");

        // Between our look at a port and the server's, another process may take it.
        for _ in 0..5 {
            let port = free_port();
            if supervisor.ask(&start_at(port)) == "0" {
                return Self { supervisor: Mutex::new(supervisor), folder, port };
            }
        }
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        panic!("PostgreSQL did not start:\n{log}");
    }

    /// Kills the server as a crash would, and starts it again at the same port; it recovers from its log.
    pub(crate) fn restart_immediate(&self) {
        self.control("restart -m immediate");
    }

    /// Stops the server, disconnecting its clients.
    pub(crate) fn stop(&self) {
        self.control("stop -m fast");
    }

    /// Starts a stopped server, at the same port.
    pub(crate) fn start_again(&self) {
        self.control(&start_at(self.port));
    }

    fn control(&self, mode: &str) {
        let status = self.supervisor.lock().expect("no holder panics").ask(mode);
        let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert_eq!(status, "0", "pg_ctl {mode} failed:\n{}", log());
    }

    /// Makes an empty database for one test. Its name begins with `name` and is this test's alone.
    pub(crate) fn database(&self, name: &str) -> TestDatabase<'_> {
        self.database_like(name, "template1")
    }

    fn database_like(&self, name: &str, template: &str) -> TestDatabase<'_> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}_{}", MADE.fetch_add(1, Ordering::Relaxed));
        self.execute(&format!("CREATE DATABASE {name} TEMPLATE {template}"));
        TestDatabase { cluster: self, name }
    }

    /// Makes a role without privileges that logs in over TCP. Roles belong to the cluster: in the shared one the
    /// name must be the test's own, such as that of its database.
    pub(crate) fn login(&self, role: &str, password: &str) {
        self.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'"));
    }

    /// Runs statements as the superuser, in the database `postgres`.
    pub(crate) fn execute(&self, statements: &str) {
        self.try_execute(statements).unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    fn try_execute(&self, statements: &str) -> sqlx::Result<()> {
        block_on(async {
            let mut connection = PgConnection::connect(&self.url("postgres")).await?;
            sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await?;
            connection.close().await
        })
    }

    /// The superuser's way to `database`, through the socket.
    pub(crate) fn url(&self, database: &str) -> String {
        socket_url(&self.folder, self.port, database)
    }

    /// The way of a role with a password to `database`, over TCP.
    pub(crate) fn tcp_url(&self, database: &str, role: &str, password: &str) -> String {
        format!("postgres://{role}:{password}@localhost:{}/{database}", self.port)
    }

    /// The TCP port, which restarts keep. It names the socket too.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the data, the socket, the log and the certificates.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The certificate of the authority that signed the server's.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// The certificate of an authority that signed nothing.
    pub(crate) fn untrusted_ca(&self) -> PathBuf {
        self.folder.join("untrusted-ca.crt")
    }
}

/// A database of one test, dropped with whoever is still connected at the end.
pub(crate) struct TestDatabase<'a> {
    cluster: &'a TempPostgres,
    /// Its name in the cluster.
    pub(crate) name: String,
}

impl<'a> TestDatabase<'a> {
    /// Another database that holds what this one does. Nobody may be connected to this one meanwhile.
    pub(crate) fn copy(&self) -> TestDatabase<'a> {
        self.cluster.database_like(&self.name, &self.name)
    }

    /// The superuser's way here, through the socket.
    pub(crate) fn url(&self) -> String {
        self.cluster.url(&self.name)
    }

    /// A new pool of the superuser's connections, for the tokio runtime that this is called in.
    pub(crate) fn pool(&self) -> PgPool {
        PgPoolOptions::new().connect_lazy(&self.url()).expect("our own URL is well formed")
    }
}

impl Drop for TestDatabase<'_> {
    fn drop(&mut self) {
        // A private cluster that the test has stopped can't answer, and goes as a whole anyway.
        drop(self.cluster.try_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name)));
    }
}

/// The superuser's URL of a database behind the socket in `folder`.
pub(crate) fn socket_url(folder: &Path, port: u16, database: &str) -> String {
    format!("postgres://postgres@{}:{port}/{database}", folder.display().to_string().replace('/', "%2F"))
}

fn start_at(port: u16) -> String {
    format!("start -o -p{port}")
}

/// A port that nothing listens on, below those that the kernel gives to outgoing connections: a stopped server must
/// find it free again.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = rand::random_range(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The folder of PostgreSQL's programs: Debian's newest, else where PATH has them.
pub(crate) fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(|entry| {
        let path = entry.ok()?.path();
        let version: u32 = path.file_name()?.to_str()?.parse().ok()?;
        Some((version, path.join("bin")))
    });
    let mut versions = versions.collect::<Vec<_>>();
    versions.sort_by(|a, b| b.cmp(a));
    let folders = versions.into_iter().map(|(_, folder)| folder).collect::<Vec<_>>();
    let initdb =
        find_program("initdb", &folders).expect("PostgreSQL's server is installed: run ./test.sh once");
    initdb.parent().expect("a file is in a folder").to_owned()
}

pub(crate) fn make_certificates(folder: &Path) {
    let script = include_str!("certificates.sh");
    let made = unprivileged("sh").arg("-c").arg(script).current_dir(folder).output().expect("sh runs");
    assert!(made.status.success(), "openssl failed:\n{}", String::from_utf8_lossy(&made.stdout));
}

/// Runs `future` to its end on a thread and runtime of its own, so that it can be called with or without a runtime.
fn block_on<F: Future<Output: Send> + Send>(future: F) -> F::Output {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("the system has threads and sockets to give").block_on(future)
    };
    thread::scope(|scope| scope.spawn(run).join()).expect("errors are returned, not panics")
}
