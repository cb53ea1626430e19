//! Real Redis: a server of one test, with a password.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use super::{
    postgres::{free_port, make_certificates},
    supervisor::{Supervisor, find_program},
};

/// A server in a folder of its own, that listens on loopback; killed and removed on drop, or when the process ends.
pub(crate) struct TempRedis {
    folder: PathBuf,
    port: u16,
    _supervisor: Supervisor,
}

impl TempRedis {
    /// A server whose default user has this password.
    pub(crate) fn start(password: &str) -> Self {
        Self::launch(&format!("--requirepass {password}"), "--port")
    }

    /// One with settings instead of a password, as on its command line.
    pub(crate) fn start_with(settings: &str) -> Self {
        Self::launch(settings, "--port")
    }

    /// A server that speaks TLS only. Its certificate is for `localhost`, and signed by an authority of its own.
    pub(crate) fn start_with_tls(password: &str) -> Self {
        let files = "--tls-cert-file server.crt --tls-key-file server.key --tls-ca-cert-file ca.crt";
        let settings = format!("--requirepass {password} --port 0 --tls-auth-clients no {files}");
        Self::launch(&settings, "--tls-port")
    }

    fn launch(settings: &str, port_setting: &str) -> Self {
        let program = find_program("redis-server", &[]).expect("Redis is installed: run ./test.sh once");
        let mut supervisor = Supervisor::start(include_str!("redis.sh"), &[program.as_os_str()]);
        let folder = PathBuf::from(supervisor.answer());
        if port_setting == "--tls-port" {
            make_certificates(&folder);
        }
        // Between our look at a port and the server's, another process may take it.
        for _ in 0..5 {
            let port = free_port();
            if supervisor.ask(&format!("{settings} {port_setting} {port}")) == "0" {
                return Self { folder, port, _supervisor: supervisor };
            }
        }
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        panic!("Redis did not start:\n{log}");
    }

    /// Gives the default user another password, as whoever has the old one. Who is logged in stays so.
    pub(crate) fn change_password(&self, old: &str, new: &str) {
        let mut socket = UnixStream::connect(self.folder.join("socket")).expect("the server listens");
        write!(socket, "AUTH {old}\r\nCONFIG SET requirepass {new}\r\nQUIT\r\n").expect("the server reads");
        let mut answers = String::new();
        socket.read_to_string(&mut answers).expect("the server answers");
        assert_eq!(answers, "+OK\r\n+OK\r\n+OK\r\n");
    }

    /// The TCP port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}
