//! Metrics for Prometheus: served to its scrapes, or left in a file for `node_exporter` to pick up.
//!
//! The server answers one request a connection and knows one path. That is all that a scrape is, so it is written
//! here and not taken from a library: a server of hyper's would bring a hundred times the code.

use std::{
    fs::Permissions,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use reseal::rekey::Status;
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, lookup_host},
    sync::{Semaphore, watch},
    time::{interval, timeout},
};

use super::{Call, Fault, stdio};

/// How often the file is written.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long a client may take to ask and to be answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections at a time; others wait to be accepted.
const CONNECTIONS: usize = 8;

/// The longest head of a request that is read, in bytes.
const HEAD: u64 = 8 << 10;

/// Where metrics go, proven to be usable.
pub(super) struct Exporter {
    listener: Option<TcpListener>,
    file: Option<PathBuf>,
}

impl Exporter {
    /// Takes the address and tries the file's folder, before anything else is done.
    pub(super) async fn open(call: &Call) -> Result<Self, Fault> {
        let listener = match call.settings.text("metrics-listen") {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let file = call.settings.text("metrics-file").map(PathBuf::from);
        if let Some(file) = &file {
            NamedTempFile::new_in(folder(file)).map_err(|error| {
                Fault::refused(format!("cannot write metrics to {}: {}", file.display(), error.kind()))
                    .hint("name a file in a folder that may be written to")
            })?;
        }
        Ok(Self { listener, file })
    }

    /// Serves what `status` shows until nothing sends to it any more; the file then keeps what was last.
    pub(super) async fn export(self, mut status: watch::Receiver<Status>) {
        let server = self.listener.map(|listener| tokio::spawn(serve(listener, status.clone())));
        let mut ticks = interval(INTERVAL);
        let mut ended = false;
        while !ended {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = status.wait_for(|_| false) => ended = true,
            }
            let now = text(&status);
            if let Some(file) = &self.file
                && let Err(error) = write(file, &now)
            {
                stdio::note(format_args!("cannot write metrics to {}: {}", file.display(), error.kind()));
            }
        }
        if let Some(server) = server {
            server.abort();
        }
    }
}

fn text(status: &watch::Receiver<Status>) -> String {
    let now = status.borrow().clone();
    now.metrics.text(&now)
}

/// Puts a whole file in the place of the last one, so that who reads it never sees a part.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut new = NamedTempFile::new_in(folder(file))?;
    new.write_all(text.as_bytes())?;
    // Counts, for another account to read.
    new.as_file().set_permissions(Permissions::from_mode(0o644))?;
    new.persist(file)?;
    Ok(())
}

fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A port alone is one of the loopback interface.
async fn listen(address: &str) -> Result<TcpListener, Fault> {
    let usage = || {
        Fault::usage("--metrics-listen takes a port or an address").hint("--metrics-listen 127.0.0.1:9464")
    };
    let address = match address.trim_start_matches(':').parse::<u16>() {
        Ok(port) => SocketAddr::from(([127, 0, 0, 1], port)),
        Err(_) => lookup_host(address).await.map_err(|_| usage())?.next().ok_or_else(usage)?,
    };
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Fault::refused(format!("cannot serve metrics at {address}: {}", error.kind()))
            .hint("name another port: each process of a machine needs its own")
    })?;
    if let Ok(address) = listener.local_addr() {
        stdio::note(format_args!("metrics at http://{address}/metrics"));
    }
    Ok(listener)
}

async fn serve(listener: TcpListener, status: watch::Receiver<Status>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        // A client that is gone already is no reason to stop.
        let Ok((client, _)) = listener.accept().await else { continue };
        let status = status.clone();
        tokio::spawn(async move {
            drop(timeout(PATIENCE, answer(client, &status)).await);
            drop(permit);
        });
    }
}

/// Reads the head of one request and answers it.
async fn answer(mut client: TcpStream, status: &watch::Receiver<Status>) -> io::Result<()> {
    let mut lines = BufReader::new(&mut client).take(HEAD).lines();
    let request = lines.next_line().await?.unwrap_or_default();
    while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
    let (result, body) = match request.split(' ').take(2).collect::<Vec<_>>()[..] {
        ["GET", "/metrics"] => ("200 OK", text(status)),
        ["GET", _] => ("404 Not Found", "metrics are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", String::new()),
    };
    let head = format!(
        "HTTP/1.1 {result}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await?;
    client.write_all(body.as_bytes()).await?;
    client.shutdown().await
}
