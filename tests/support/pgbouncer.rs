//! A connection pooler in transaction mode before a cluster, as hosted databases have: no session outlives its
//! transaction, named prepared statements get lost, and start-up parameters that it doesn't know are refused.

use std::{
    ffi::OsStr,
    fs,
    os::unix::net::UnixStream,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use super::{
    postgres::{TempPostgres, socket_url},
    supervisor::{Supervisor, find_program},
};

/// How many server connections all clients of one database share.
pub(crate) const POOL_SIZE: usize = 3;

const PORT: u16 = 6432;

/// A running PgBouncer; killed on drop.
pub(crate) struct PgBouncer {
    folder: PathBuf,
    _supervisor: Supervisor,
}

impl PgBouncer {
    /// Starts one that leads to every database of `cluster`.
    pub(crate) fn start(cluster: &TempPostgres) -> Self {
        let program = find_program("pgbouncer", &[]).expect("pgbouncer is installed: run ./test.sh once");
        let port = cluster.port().to_string();
        let mut supervisor = Supervisor::start(
            include_str!("pgbouncer.sh"),
            &[program.as_os_str(), cluster.folder().as_os_str(), OsStr::new(&port)],
        );
        let folder = PathBuf::from(supervisor.answer());

        let started = Instant::now();
        while let Err(error) = UnixStream::connect(folder.join(format!(".s.PGSQL.{PORT}"))) {
            let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "pgbouncer does not listen: {error}\n{}",
                log()
            );
            thread::sleep(Duration::from_millis(20));
        }
        Self { folder, _supervisor: supervisor }
    }

    /// The superuser's way to `database` through the pooler.
    pub(crate) fn url(&self, database: &str) -> String {
        socket_url(&self.folder, PORT, database)
    }

    /// The folder of its socket, settings and log.
    pub(crate) fn folder(&self) -> &std::path::Path {
        &self.folder
    }
}
