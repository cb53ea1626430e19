//! Stand-ins for the vendors: servers that remember what they minted, act late, and fail as the vendors do.
//!
//! Each vendor's file has its state and an axum router over it; [`Vendor`] serves the router and puts faults in its
//! way. A stand-in is checked against the vendor's own specification where that is at hand (`tests/providers/`).

pub(crate) mod control_plane;
pub(crate) mod fly;
pub(crate) mod fresh;
pub(crate) mod github;
pub(crate) mod neon;
pub(crate) mod resend;
pub(crate) mod stripe;
pub(crate) mod upstash;

use std::{
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{StatusCode, request::Parts},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use tokio::{net::TcpListener, runtime::Runtime, task::JoinHandle};

/// What befalls a request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It is answered with this status and body, and nothing is done.
    Refuse(u16, &'static str),
    /// It is done, and the connection is closed without a reply.
    LoseReply,
    /// The connection is closed, and nothing is done.
    LoseRequest,
    /// It is done after this time.
    Delay(Duration),
    /// It is done twice, as by a proxy that sends again; the second reply is given.
    Twice,
}

/// A fault, and which requests it befalls.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    method: &'static str,
    path: String,
    skip: usize,
    left: usize,
    fault: Fault,
}

impl Rule {
    /// The next request of this method whose path contains `path`.
    pub(crate) fn next(method: &'static str, path: &str, fault: Fault) -> Self {
        Self { method, path: path.to_owned(), skip: 0, left: 1, fault }
    }

    /// The request after the next `count`, whatever it is.
    pub(crate) fn any_after(count: usize, fault: Fault) -> Self {
        Self::next("", "", fault).after(count)
    }

    /// Every one from now on.
    pub(crate) fn every(method: &'static str, path: &str, fault: Fault) -> Self {
        Self { left: usize::MAX, ..Self::next(method, path, fault) }
    }

    /// Lets the first `count` that match go unharmed.
    pub(crate) fn after(self, count: usize) -> Self {
        Self { skip: count, ..self }
    }
}

/// A request as it arrived, and how it was answered (0: not at all).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: u16,
}

/// Called after every request that was done.
type Watcher = Box<dyn Fn(&Seen) + Send>;

#[derive(Default)]
struct Gate {
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    watcher: Mutex<Option<Watcher>>,
}

impl Gate {
    fn fault(&self, method: &str, path: &str) -> Option<Fault> {
        let mut rules = self.rules.lock().expect("a test that panicked ends anyway");
        let matches =
            |rule: &&mut Rule| (rule.method.is_empty() || rule.method == method) && path.contains(&rule.path);
        for rule in rules.iter_mut().filter(matches) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if rule.left > 0 {
                rule.left = rule.left.saturating_sub(usize::from(rule.left != usize::MAX));
                return Some(rule.fault.clone());
            }
        }
        None
    }
}

/// Serves every stand-in of the process.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads to serve with")
});

/// A running stand-in; stops on drop.
pub(crate) struct Vendor {
    url: String,
    gate: Arc<Gate>,
    server: JoinHandle<()>,
}

impl Vendor {
    /// Serves `router` on a free port of loopback.
    pub(crate) fn serve(router: Router) -> Self {
        let gate = Arc::<Gate>::default();
        let router = router.layer(from_fn_with_state(gate.clone(), pass));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        listener.set_nonblocking(true).expect("a socket that can wait");
        let server = RUNTIME.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket for tokio");
            axum::serve(listener, router).await.expect("serves for ever");
        });
        Self { url, gate, server }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Adds a fault.
    pub(crate) fn fault(&self, rule: Rule) {
        self.gate.rules.lock().expect("a test that panicked ends anyway").push(rule);
    }

    /// Takes all faults away.
    pub(crate) fn heal(&self) {
        self.gate.rules.lock().expect("a test that panicked ends anyway").clear();
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.gate.seen.lock().expect("a test that panicked ends anyway").clone()
    }

    /// How many requests of this method, whose path contains `path`, arrived so far.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method == method && seen.path.contains(path)).count()
    }

    /// Has `watcher` called after every request that was done.
    pub(crate) fn watch(&self, watcher: impl Fn(&Seen) + Send + 'static) {
        *self.gate.watcher.lock().expect("a test that panicked ends anyway") = Some(Box::new(watcher));
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Lets a request through, or not. What has arrived is done to its end, even if the client no longer waits.
async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    match tokio::spawn(act(gate, request, next)).await {
        Ok(Some(response)) => response,
        // Ends the connection's task without the panic hook's noise, and with it the connection.
        _ => std::panic::resume_unwind(Box::new("the reply is lost")),
    }
}

/// The reply, or `None` if it is lost.
async fn act(gate: Arc<Gate>, request: Request, next: Next) -> Option<Response> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let (method, path) = (parts.method.to_string(), parts.uri.to_string());
    let fault = gate.fault(&method, &path);
    let response = match &fault {
        Some(Fault::Refuse(status, body)) => {
            let status = StatusCode::from_u16(*status).expect("a status");
            Some((status, [("content-type", "application/json")], *body).into_response())
        }
        Some(Fault::LoseRequest) => None,
        Some(Fault::Delay(time)) => {
            tokio::time::sleep(*time).await;
            Some(next.run(again(&parts, &body)).await)
        }
        Some(Fault::Twice) => {
            next.clone().run(again(&parts, &body)).await;
            Some(next.run(again(&parts, &body)).await)
        }
        Some(Fault::LoseReply) | None => Some(next.run(again(&parts, &body)).await),
    };
    let lost = matches!(fault, Some(Fault::LoseReply | Fault::LoseRequest));
    let status = response.as_ref().map_or(0, |response| response.status().as_u16());
    let seen = Seen { method, path, status };
    if let Some(watcher) = &*gate.watcher.lock().expect("a test that panicked ends anyway") {
        watcher(&seen);
    }
    gate.seen.lock().expect("a test that panicked ends anyway").push(seen);
    response.filter(|_| !lost)
}

fn again(parts: &Parts, body: &Bytes) -> Request {
    Request::from_parts(parts.clone(), Body::from(body.clone()))
}
