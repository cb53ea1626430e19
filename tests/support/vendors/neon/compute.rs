//! Computes: what answers at an endpoint's host, in PostgreSQL's protocol (version 3, "Message Formats").
//!
//! One listener for all of them. An endpoint's host is an address of loopback that is its own, and the address that a
//! connection came to says for whom it is.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{super::RUNTIME, Branch, Shared, State, locked};

const SSL_REQUEST: u32 = 80_877_103;
const CLEARTEXT_PASSWORD: u32 = 3;
const INT8: u32 = 20;
const TEXT: u32 = 25;

/// An error as PostgreSQL words it: SQLSTATE and message.
type Refusal = (&'static str, String);

/// A listening server; stops on drop.
pub(super) struct Computes(JoinHandle<()>);

impl Computes {
    /// A socket for all addresses of loopback, and its port.
    pub(super) fn bind() -> (std::net::TcpListener, u16) {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket that can wait");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        (listener, port)
    }

    pub(super) fn serve(listener: std::net::TcpListener, state: Shared) -> Self {
        Self(RUNTIME.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket for tokio");
            while let Ok((stream, _)) = listener.accept().await {
                let state = state.clone();
                // Whoever goes away in the middle has no answer to get.
                tokio::spawn(async move { drop(session(stream, state).await) });
            }
        }))
    }
}

impl Drop for Computes {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The address of the endpoint with this number.
pub(super) fn address(number: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(number).expect("no test makes so many").to_be_bytes();
    Ipv4Addr::new(127, 77, high, low)
}

async fn session(mut stream: TcpStream, state: Shared) -> io::Result<()> {
    let IpAddr::V4(host) = stream.local_addr()?.ip() else { return Ok(()) };
    let role = start(&mut stream).await?;
    let there = locked(&state).at(host).map(drop);
    if let Err(refusal) = there {
        return stream.write_all(&error(&refusal)).await;
    }
    stream.write_all(&message(b'R', &CLEARTEXT_PASSWORD.to_be_bytes())).await?;
    let (_, password) = read(&mut stream).await?;
    let admitted = locked(&state).at(host).and_then(|branch| branch.admit(&role, &password));
    if let Err(refusal) = admitted {
        return stream.write_all(&error(&refusal)).await;
    }
    stream.write_all(&message(b'R', &0_u32.to_be_bytes())).await?;
    stream.write_all(&ready()).await?;
    while let (b'Q', query) = read(&mut stream).await? {
        let answered = locked(&state).at(host).and_then(|branch| branch.answer(&query));
        let reply = answered.unwrap_or_else(|refusal| error(&refusal));
        stream.write_all(&[reply, ready()].concat()).await?;
    }
    Ok(())
}

impl State {
    /// The branch whose endpoint has this address.
    fn at(&mut self, host: Ipv4Addr) -> Result<&mut Branch, Refusal> {
        let branch = self.behind_address(host);
        let why = "The requested endpoint could not be found, or you don't have access to it. Please check the \
                   provided ID and try again.";
        branch.ok_or_else(|| ("XX000", why.to_owned()))
    }
}

impl Branch {
    /// Whether a role logs in with this password now.
    pub(super) fn admit(&self, role: &str, password: &str) -> Result<(), Refusal> {
        match self.roles.iter().find(|one| one.name == role && one.works == password) {
            Some(one) if one.logs_in => Ok(()),
            Some(_) => Err(("28000", format!("role \"{role}\" is not permitted to log in"))),
            None => Err(("28P01", format!("password authentication failed for user \"{role}\""))),
        }
    }

    /// What is answered to a query of the library, known by a word in it.
    fn answer(&mut self, query: &str) -> Result<Vec<u8>, Refusal> {
        let quoted = query.split_once("ALTER ROLE \"").and_then(|(_, rest)| rest.split_once("\" NOLOGIN"));
        if let Some((name, _)) = quoted {
            let name = name.replace("\"\"", "\"");
            let role = self.roles.iter_mut().find(|role| role.name == name);
            let role = role.ok_or_else(|| ("42704", format!("role \"{name}\" does not exist")))?;
            role.logs_in = false;
            return Ok(message(b'C', b"ALTER ROLE\0"));
        }
        Ok(if query.contains("pg_terminate_backend") {
            rows(TEXT, &[])
        } else if query.contains("pg_stat_activity") {
            rows(INT8, &[&self.sessions.to_string()])
        } else if query.contains("pg_roles") {
            let mut names: Vec<_> =
                self.roles.iter().filter(|role| role.logs_in).map(|role| &*role.name).collect();
            names.sort_unstable();
            rows(TEXT, &names)
        } else {
            rows(INT8, &["1"])
        })
    }
}

/// Refuses encryption, and gives the role that logs in.
async fn start(stream: &mut TcpStream) -> io::Result<String> {
    loop {
        let length = stream.read_u32().await?;
        let mut body = vec![0; length.saturating_sub(4) as usize];
        stream.read_exact(&mut body).await?;
        if body == SSL_REQUEST.to_be_bytes() {
            stream.write_all(b"N").await?;
            continue;
        }
        let words: Vec<_> = body.get(4..).unwrap_or_default().split(|byte| *byte == 0).collect();
        let user = words.chunks_exact(2).find(|pair| pair[0] == b"user");
        return Ok(user.map(|pair| String::from_utf8_lossy(pair[1]).into_owned()).unwrap_or_default());
    }
}

/// The next message: its type, and its text.
async fn read(stream: &mut TcpStream) -> io::Result<(u8, String)> {
    let kind = stream.read_u8().await?;
    let length = stream.read_u32().await?;
    let mut body = vec![0; length.saturating_sub(4) as usize];
    stream.read_exact(&mut body).await?;
    Ok((kind, String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned()))
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn error((code, why): &Refusal) -> Vec<u8> {
    message(b'E', format!("SFATAL\0VFATAL\0C{code}\0M{why}\0\0").as_bytes())
}

/// A column without a name, as text.
fn rows(kind: u32, values: &[&str]) -> Vec<u8> {
    let column =
        [&1_u16.to_be_bytes()[..], b"\0", &[0; 6], &kind.to_be_bytes(), &[0xff; 6], &[0; 2]].concat();
    let mut all = message(b'T', &column);
    for value in values {
        let length = u32::try_from(value.len()).expect("a short value");
        let row = [&1_u16.to_be_bytes()[..], &length.to_be_bytes(), value.as_bytes()].concat();
        all.extend(message(b'D', &row));
    }
    all.extend(message(b'C', format!("SELECT {}\0", values.len()).as_bytes()));
    all
}
