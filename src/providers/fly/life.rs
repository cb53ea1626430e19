//! A machine's life: created beside another one, started, given traffic, relieved of it, stopped, destroyed.
//!
//! Fly has no idempotency keys. Here all can be said twice all the same: a machine is created under a name that its app
//! has once, and where Fly refuses what it was told, the machine itself says whether it is so already. What can't be done
//! yet, because somebody holds the machine's lease or Fly still prepares it, is [`Busy`](ProviderError::Busy): to be said
//! again.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Fly, Lease, Machine, NO_CAPACITY, PROVIDER, acting};
use crate::providers::{Patience, ProviderError, http::Reply};

/// How a host says that it has no room, without the code that there is for a whole region.
///
/// Source: `flaps_error_test.go` of <https://github.com/superfly/fly-go>
const NO_ROOM: [&str; 3] = ["available to fulfill request", "no capacity", "insufficient resources"];

/// A machine that is to be.
pub struct Creation<'a> {
    /// Its name: its app has it once.
    pub name: &'a str,
    /// Where it is to run.
    pub region: &'a str,
    /// Its whole configuration.
    pub config: &'a Value,
    /// The version of the vault that it must have at least.
    pub min_secrets_version: u64,
}

/// What became of a machine that was to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    /// It is there.
    Made(Machine),
    /// One of this name was there already; whose it is, its metadata says.
    Taken {
        /// Its id.
        id: String,
    },
}

/// What a machine is told.
struct Order {
    /// The end of its path.
    verb: &'static str,
    /// Finishes "could not …" in errors.
    call: &'static str,
    /// Whether a machine, or none, is so already.
    is_done: fn(Option<&Machine>) -> bool,
}

const START: Order = Order {
    verb: "start",
    call: "start the machine",
    is_done: |machine| machine.is_some_and(|it| matches!(it.state.as_str(), "started" | "starting")),
};

const STOP: Order =
    Order { verb: "stop", call: "stop the machine", is_done: |machine| machine.is_none_or(Machine::is_down) };

const CORDON: Order = Order {
    verb: "cordon",
    call: "cordon the machine",
    is_done: |machine| machine.is_none_or(|it| it.cordoned == Some(true)),
};

const UNCORDON: Order = Order {
    verb: "uncordon",
    call: "uncordon the machine",
    is_done: |machine| machine.is_some_and(|it| it.cordoned == Some(false)),
};

const DESTROY: Order =
    Order { verb: "destroy", call: "destroy the machine", is_done: |machine| machine.is_none() };

impl Fly {
    /// Creates a machine that is neither launched nor routed to.
    ///
    /// # Errors
    /// See [`ProviderError`]; [`is_capacity`](ProviderError::is_capacity) where its region has no room for it.
    ///
    /// # Crash safety
    /// Its name makes it the only one: created again, after a lost reply or by another process, it is
    /// [`Taken`](Created::Taken).
    pub async fn create_machine(&self, app: &str, creation: &Creation<'_>) -> Result<Created, ProviderError> {
        let call = "create the machine";
        let body = json!({
            "name": creation.name,
            "region": creation.region,
            "config": creation.config,
            "min_secrets_version": creation.min_secrets_version,
            "skip_launch": true,
            "skip_service_registration": true,
        });
        let request = self.machines.post(call, &["apps", app, "machines"]).json(&body).repeatable();
        let reply = acting(request, "create", &[app]).reply().await?;
        if !is_taken(&reply) {
            return granted(reply)?.json().map(Created::Made);
        }
        if let Some(id) = holder(&reply) {
            return Ok(Created::Taken { id });
        }
        let named = |machine: &Machine| machine.name == creation.name;
        match self.machines(app).await?.into_iter().find(named) {
            Some(machine) => Ok(Created::Taken { id: machine.id }),
            // A list lags.
            None => Err(busy(call, "its name is taken, and no machine of that name is listed")),
        }
    }

    /// Starts a machine. One that is started already is done.
    ///
    /// # Errors
    /// See [`ProviderError`]; [`is_capacity`](ProviderError::is_capacity) where its host has no room for it now.
    pub async fn start(&self, app: &str, id: &str) -> Result<(), ProviderError> {
        self.start_under(app, id, None).await
    }

    /// The same by the holder of its lease.
    pub(super) async fn start_under(
        &self,
        app: &str,
        id: &str,
        lease: Option<&Lease>,
    ) -> Result<(), ProviderError> {
        self.tell(app, id, &START, lease).await
    }

    /// Has a machine stop, which takes it a while ([`stopped`](Self::stopped)). One that is down, or gone, is done. A
    /// request can wake it again unless it is [cordoned](Self::cordon).
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn stop(&self, app: &str, id: &str) -> Result<(), ProviderError> {
        self.tell(app, id, &STOP, None).await
    }

    /// Has Fly's proxy send a machine nothing any more. One that is gone is done.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn cordon(&self, app: &str, id: &str) -> Result<(), ProviderError> {
        self.tell(app, id, &CORDON, None).await
    }

    /// Has Fly's proxy send requests to a machine.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn uncordon(&self, app: &str, id: &str) -> Result<(), ProviderError> {
        self.tell(app, id, &UNCORDON, None).await
    }

    /// Destroys a machine, whether it runs or not. One that is gone is done.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn destroy(&self, app: &str, id: &str) -> Result<(), ProviderError> {
        let call = self.machines.delete(DESTROY.call, &["apps", app, "machines", id]);
        let call = call.query(&[("force", "true")]).repeatable();
        let reply = acting(call, DESTROY.verb, &[app, id]).reply().await?;
        self.obeyed(app, id, &DESTROY, reply).await
    }

    /// Waits until nothing of a machine runs; `false` if it still did at the deadline.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn stopped(&self, app: &str, id: &str, patience: Patience) -> Result<bool, ProviderError> {
        let mut wait = patience.begin();
        loop {
            if self.present(app, id).await?.is_none_or(|machine| machine.is_down()) {
                return Ok(true);
            }
            if !wait.pause().await {
                return Ok(false);
            }
        }
    }

    /// Waits until a machine is [healthy](Machine::is_healthy); `false` if it was not at the deadline.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn healthy(&self, app: &str, id: &str, patience: Patience) -> Result<bool, ProviderError> {
        let mut wait = patience.begin();
        loop {
            if self.machine(app, id).await?.is_healthy() {
                return Ok(true);
            }
            if !wait.pause().await {
                return Ok(false);
            }
        }
    }

    async fn tell(
        &self,
        app: &str,
        id: &str,
        order: &Order,
        lease: Option<&Lease>,
    ) -> Result<(), ProviderError> {
        let call = self.machines.post(order.call, &["apps", app, "machines", id, order.verb]).repeatable();
        let call = match lease {
            Some(lease) => call.header("fly-machine-lease-nonce", &lease.nonce),
            None => call,
        };
        let reply = acting(call, order.verb, &[app, id]).reply().await?;
        self.obeyed(app, id, order, reply).await
    }

    /// What an order came to. Fly refuses with the same statuses what is so already and what can't be so yet, and tells
    /// them apart in words alone: so the machine is asked.
    async fn obeyed(&self, app: &str, id: &str, order: &Order, reply: Reply) -> Result<(), ProviderError> {
        let status = reply.status();
        let refusal = match granted(reply) {
            Ok(_) => return Ok(()),
            Err(refusal) => refusal,
        };
        let not_yet = match status {
            404 | 410 if (order.is_done)(None) => return Ok(()),
            409 if !refusal.is_capacity() => "somebody holds its lease",
            412 if !refusal.is_capacity() => "it is not ready for that",
            _ => return Err(refusal),
        };
        match self.present(app, id).await? {
            machine if (order.is_done)(machine.as_ref()) => Ok(()),
            Some(_) => Err(busy(order.call, not_yet)),
            None => Err(refusal),
        }
    }

    /// A machine, unless it is gone.
    async fn present(&self, app: &str, id: &str) -> Result<Option<Machine>, ProviderError> {
        match self.machine(app, id).await {
            Ok(machine) => Ok(Some(machine).filter(|machine| machine.state != "destroyed")),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The reply, unless it is a refusal; one for want of room always has the code for that.
pub(super) fn granted(reply: Reply) -> Result<Reply, ProviderError> {
    let is_full = NO_ROOM.iter().any(|text| reply.mentions(text));
    reply.success().map_err(|refusal| match refusal {
        ProviderError::Refused { provider, call, status: status @ (409 | 412 | 422), .. } if is_full => {
            ProviderError::Refused { provider, call, status, code: Some(NO_CAPACITY.to_owned()) }
        }
        refusal => refusal,
    })
}

fn busy(call: &'static str, why: &str) -> ProviderError {
    ProviderError::Busy { provider: PROVIDER, call, why: why.to_owned(), retry_after: None }
}

/// Whether a machine was refused for its name.
fn is_taken(reply: &Reply) -> bool {
    let says_so = ["unique machine name", "already exists", "already been taken"];
    // A code outranks the words, which can quote another failure.
    matches!(reply.status(), 409 | 422)
        && reply.code().as_deref() != Some(NO_CAPACITY)
        && says_so.iter().any(|text| reply.mentions(text))
}

/// The id of the machine that has the name, as the refusal tells it.
///
/// Source: "already_exists: unique machine name violation, machine ID … already exists with name …", as seen by others
fn holder(reply: &Reply) -> Option<String> {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    let text = reply.json::<Refusal>().ok()?.error;
    let (id, _) = text.split_once("machine ID ")?.1.split_once(' ')?;
    let is_id = !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_id.then(|| id.to_owned())
}
