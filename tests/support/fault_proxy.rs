//! A proxy between a client and a KMS, which loses, delays and refuses on command.
//!
//! It takes HTTP/1.1 as the AWS SDK speaks it (`x-amz-target`, `content-length`) and serves one request a
//! connection, so that "closed without a reply" can mean only that.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// What happens to a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// It is refused as one too many, if so many came before it in the same second.
    Quota(usize),
    /// It is answered with this HTTP status and AWS error code, and not passed on.
    Refuse(u16, &'static str),
    /// It is passed on and done, and the connection is closed without the reply.
    LoseReply,
    /// It is passed on after this time.
    Delay(Duration),
    /// It is passed on without its `KeyId`, as to a service that lets the blob choose the key.
    ForgetKey,
    /// It is passed on, and the reply says that this backing key was used, as AWS does and moto does not.
    SayMaterial(&'static str),
}

impl Fault {
    pub(crate) const THROTTLE: Self = Self::Refuse(400, "ThrottlingException");
    pub(crate) const DENY: Self = Self::Refuse(400, "AccessDeniedException");
    pub(crate) const BREAK: Self = Self::Refuse(500, "KMSInternalException");
}

/// A fault, and which requests it befalls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    fault: Fault,
    operation: Option<&'static str>,
    left: usize,
}

impl Rule {
    /// Every request from now on.
    pub(crate) fn every(fault: Fault) -> Self {
        Self::next(usize::MAX, fault)
    }

    /// The next `count` requests.
    pub(crate) fn next(count: usize, fault: Fault) -> Self {
        Self { fault, operation: None, left: count }
    }

    /// Only requests of this operation (`Decrypt`).
    pub(crate) fn of(self, operation: &'static str) -> Self {
        Self { operation: Some(operation), ..self }
    }
}

/// A running proxy. Passes everything on until it is told otherwise; stops listening on drop.
#[derive(Debug)]
pub(crate) struct FaultProxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    rules: Mutex<Vec<Rule>>,
    /// Requests that arrived, by operation, whatever became of them.
    arrived: Mutex<BTreeMap<String, u64>>,
    closed: AtomicBool,
    /// When the last requests under [`Fault::Quota`] were passed on.
    taken: Mutex<VecDeque<Instant>>,
    /// How many were not.
    refused: AtomicU64,
}

impl FaultProxy {
    /// Starts a proxy to `upstream` (`http://host:port`).
    pub(crate) fn start(upstream: &str) -> Self {
        let upstream = upstream.strip_prefix("http://").expect("an http URL").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::<State>::default();
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if shared.closed.load(Ordering::SeqCst) {
                    return;
                }
                let (state, upstream) = (shared.clone(), upstream.clone());
                // A client that goes away in the middle is its own affair.
                thread::spawn(move || client.and_then(|client| state.serve(client, &upstream)).ok());
            }
        });
        Self { address, state }
    }

    /// The URL that clients connect to.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a rule. The first that fits a request, in the order they were added, decides.
    pub(crate) fn inject(&self, rule: Rule) {
        self.state.rules.lock().unwrap().push(rule);
    }

    /// Takes back every rule; gives how many requests they would still have befallen.
    pub(crate) fn clear(&self) -> usize {
        let rules = std::mem::take(&mut *self.state.rules.lock().unwrap());
        rules.iter().fold(0, |left, rule| left.saturating_add(rule.left))
    }

    /// How many requests were refused by [`Fault::Quota`].
    pub(crate) fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::SeqCst)
    }

    /// How many requests of `operation` (`Decrypt`) have arrived.
    pub(crate) fn requests(&self, operation: &str) -> u64 {
        self.state.arrived.lock().unwrap().get(operation).copied().unwrap_or(0)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees that it is closed.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn serve(&self, mut client: TcpStream, upstream: &str) -> io::Result<()> {
        let request = Request::read(&client)?;
        *self.arrived.lock().unwrap().entry(request.operation.clone()).or_default() += 1;
        match self.fault(&request.operation) {
            Some(Fault::Quota(quota)) if !self.takes(quota) => {
                self.refused.fetch_add(1, Ordering::SeqCst);
                client.write_all(refusal(400, "ThrottlingException").as_bytes())
            }
            None | Some(Fault::Quota(_)) => client.write_all(&request.pass_on(upstream)?),
            Some(Fault::Refuse(status, code)) => client.write_all(refusal(status, code).as_bytes()),
            Some(Fault::LoseReply) => request.pass_on(upstream).map(drop),
            Some(Fault::Delay(time)) => {
                thread::sleep(time);
                client.write_all(&request.pass_on(upstream)?)
            }
            Some(Fault::SayMaterial(id)) => {
                client.write_all(&with_material(&request.pass_on(upstream)?, id)?)
            }
            Some(Fault::ForgetKey) => client.write_all(&request.without_key()?.pass_on(upstream)?),
        }
    }

    /// Whether one more request fits into `quota` requests of the last second.
    fn takes(&self, quota: usize) -> bool {
        let (mut taken, now) = (self.taken.lock().unwrap(), Instant::now());
        while taken.front().is_some_and(|then| now - *then >= Duration::from_secs(1)) {
            taken.pop_front();
        }
        let takes = taken.len() < quota;
        if takes {
            taken.push_back(now);
        }
        takes
    }

    fn fault(&self, operation: &str) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let rule =
            rules.iter_mut().find(|rule| rule.left > 0 && rule.operation.is_none_or(|of| of == operation))?;
        rule.left -= 1;
        Some(rule.fault)
    }
}

/// One request: its head, without the headers `connection` and `content-length`, and its body.
struct Request {
    operation: String,
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn read(client: &TcpStream) -> io::Result<Self> {
        let mut client = BufReader::new(client);
        let (mut operation, mut head, mut length) = (String::new(), String::new(), 0);
        loop {
            let mut line = String::new();
            if client.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line == "\r\n" {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            match name.to_ascii_lowercase().as_str() {
                "x-amz-target" => {
                    operation = value.rsplit('.').next().unwrap_or(value).trim().to_owned();
                    head.push_str(&line);
                }
                "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
                "connection" => {}
                _ => head.push_str(&line),
            }
        }
        let mut body = vec![0; length];
        client.read_exact(&mut body)?;
        Ok(Self { operation, head, body })
    }

    fn without_key(self) -> io::Result<Self> {
        let mut body: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&self.body)?;
        body.remove("KeyId");
        Ok(Self { body: serde_json::to_vec(&body)?, ..self })
    }

    /// The whole reply of `upstream`, which closes the connection after it, and tells the client to do so.
    fn pass_on(&self, upstream: &str) -> io::Result<Vec<u8>> {
        let mut upstream = TcpStream::connect(upstream)?;
        let framing = format!("content-length: {}\r\nconnection: close\r\n\r\n", self.body.len());
        upstream.write_all(self.head.as_bytes())?;
        upstream.write_all(framing.as_bytes())?;
        upstream.write_all(&self.body)?;
        let mut reply = Vec::new();
        upstream.read_to_end(&mut reply)?;
        Ok(reply)
    }
}

/// A good reply with a `KeyMaterialId`.
fn with_material(reply: &[u8], id: &str) -> io::Result<Vec<u8>> {
    let body = reply.windows(4).position(|end| end == b"\r\n\r\n").map_or(reply.len(), |end| end + 4);
    let mut body: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&reply[body..])?;
    body.insert("KeyMaterialId".to_owned(), id.into());
    let body = serde_json::to_vec(&body)?;
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    Ok([head.as_bytes(), &body].concat())
}

/// An error answer of KMS (AWS JSON 1.1), with a message that must not come up anywhere.
fn refusal(status: u16, code: &str) -> String {
    let body = format!(r#"{{"__type":"{code}","message":"{MESSAGE}"}}"#);
    let length = body.len();
    format!(
        "HTTP/1.1 {status} refused\r\nx-amzn-errortype: {code}\r\ncontent-type: application/x-amz-json-1.1\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// The message of every injected error.
pub(crate) const MESSAGE: &str = "this message is not for logs";
