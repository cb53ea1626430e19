//! Machines: looked at, updated under a lease, asked for a digest.
//!
//! An update replaces a machine's whole configuration, so one is kept as it came: what this crate does not know goes
//! back unchanged.

use std::fmt;

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Fly, PROVIDER, acting, life::granted};
use crate::{
    providers::{ProviderError, http::Reply},
    secret::SecretText,
};

/// A machine.
#[derive(Clone, PartialEq, Deserialize)]
pub struct Machine {
    /// Its id.
    pub id: String,
    /// Its name: its app has it once.
    #[serde(default)]
    pub name: String,
    /// `started`, `stopped`, `suspended` and others.
    pub state: String,
    /// Where it runs.
    pub region: String,
    /// Its version: another one after every update.
    pub instance_id: String,
    /// Its whole configuration; null while its host can't be reached.
    #[serde(default)]
    pub config: Value,
    /// What its health checks last said.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// When it was last updated, started or stopped (RFC 3339).
    pub updated_at: Option<String>,
    /// Whether Fly's proxy sends it nothing; `None` where Fly does not say.
    pub cordoned: Option<bool>,
}

/// Without the configuration, which can hold credentials.
impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, name, state, region, instance_id, .. } = self;
        write!(f, "Machine({id} {name:?}, {state} in {region}, version {instance_id}, …)")
    }
}

/// What a health check last said.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Check {
    /// `passing`, `warning`, `critical`.
    pub status: String,
}

impl Machine {
    /// What the configuration's metadata has under `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.config.get("metadata")?.get(key)?.as_str()
    }

    /// Whether it runs, is about to, or would if it could.
    pub fn is_up(&self) -> bool {
        matches!(self.state.as_str(), "started" | "starting" | "failed")
    }

    /// Whether it was put to sleep, or ended.
    pub fn is_asleep(&self) -> bool {
        matches!(self.state.as_str(), "stopped" | "suspended")
    }

    /// Whether nothing of it runs: asleep, never started, or gone.
    pub fn is_down(&self) -> bool {
        self.is_asleep() || matches!(self.state.as_str(), "created" | "destroyed")
    }

    /// Whether it has a volume, which no other machine can have beside it.
    pub fn has_volume(&self) -> bool {
        self.config["mounts"].as_array().is_some_and(|mounts| !mounts.is_empty())
    }

    /// Whether it is started and all its checks pass. Where some are configured, one at least must have spoken.
    pub fn is_healthy(&self) -> bool {
        let checks = |config: &Value| match &config["checks"] {
            Value::Object(checks) => !checks.is_empty(),
            Value::Array(checks) => !checks.is_empty(),
            _ => false,
        };
        let services = self.config["services"].as_array().map_or(&[][..], Vec::as_slice);
        let silent = self.checks.is_empty() && (checks(&self.config) || services.iter().any(checks));
        self.state == "started" && !silent && self.checks.iter().all(|check| check.status == "passing")
    }

    /// Whether it serves: neither gone, nor one of those that `fly` runs for a command (`fly_app_console` and its
    /// like).
    pub fn serves(&self) -> bool {
        let is_fleeting = |group: &str| group.starts_with("fly_app_");
        !matches!(self.state.as_str(), "destroyed" | "destroying" | "replaced" | "replacing")
            && !self.metadata("fly_process_group").is_some_and(is_fleeting)
    }
}

/// What a machine is made into.
pub struct Update<'a> {
    /// The machine as it was read; it is refused (409) when it has changed since.
    pub of: &'a Machine,
    /// Its whole new configuration.
    pub config: &'a Value,
    /// The vault's version that it must have at least.
    pub min_secrets_version: u64,
    /// Whether it is to be started with it. One that was not up may be left asleep all the same, and is then to be
    /// [started](Fly::start).
    pub launch: bool,
}

/// The right to change a machine, until its time is over.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Lease {
    /// What proves it.
    pub nonce: String,
}

/// What became of asking for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leased {
    /// It is ours.
    Ours(Lease),
    /// Somebody has it: who, where Fly tells.
    Held(Option<String>),
}

/// A body that the specification has bare and the service wraps.
#[derive(Deserialize)]
#[serde(untagged)]
enum Wrapped<T> {
    Wrapped { data: T },
    Bare(T),
}

impl<T> Wrapped<T> {
    fn inner(self) -> T {
        match self {
            Self::Wrapped { data } | Self::Bare(data) => data,
        }
    }
}

#[derive(Deserialize)]
struct Holder {
    owner: Option<String>,
}

#[derive(Deserialize)]
struct Executed {
    #[serde(default)]
    exit_code: i64,
    #[serde(default)]
    stdout: String,
}

impl Fly {
    /// The machines of `app`. One list proves no absence: it lags, and was seen to be empty.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn machines(&self, app: &str) -> Result<Vec<Machine>, ProviderError> {
        let call = self.machines.get("list machines", &["apps", app, "machines"]);
        acting(call, "list machines", &[app]).send().await?.json()
    }

    /// One machine.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn machine(&self, app: &str, id: &str) -> Result<Machine, ProviderError> {
        let call = self.machines.get("look at the machine", &["apps", app, "machines", id]);
        call.paced("look", format!("{app}/{id}")).send().await?.json()
    }

    /// Updates a machine, and restarts it if that is wanted.
    ///
    /// # Errors
    /// Refused with 409 when it has changed since it was read, or `lease` is no longer ours, or
    /// [for want of room](ProviderError::is_capacity).
    pub async fn update(
        &self,
        app: &str,
        update: &Update<'_>,
        lease: &Lease,
    ) -> Result<Machine, ProviderError> {
        let body = json!({
            "config": update.config,
            "region": update.of.region,
            "min_secrets_version": update.min_secrets_version,
            "current_version": update.of.instance_id,
            "skip_launch": !update.launch,
        });
        let id = &update.of.id;
        let call = self.machines.post("update the machine", &["apps", app, "machines", id]);
        let call = call.header("fly-machine-lease-nonce", &lease.nonce).json(&body);
        granted(acting(call, "update", &[app, id]).reply().await?)?.json()
    }

    /// Asks for the right to change a machine, for `seconds`; with `held`, for more time.
    ///
    /// # Errors
    /// After one whose outcome is unknown, a lease may be ours that nobody can use: it ends by itself.
    pub async fn lease(
        &self,
        app: &str,
        id: &str,
        seconds: u32,
        held: Option<&Lease>,
    ) -> Result<Leased, ProviderError> {
        let body = json!({ "ttl": seconds, "description": "reseal" });
        let call =
            self.machines.post("lease the machine", &["apps", app, "machines", id, "lease"]).json(&body);
        let call = match held {
            Some(lease) => call.header("fly-machine-lease-nonce", &lease.nonce).repeatable(),
            None => call,
        };
        let reply = acting(call, "lease", &[app, id]).reply().await?;
        if reply.status() == 409 {
            return Ok(Leased::Held(self.holder(app, id).await?));
        }
        Ok(Leased::Ours(reply.success()?.json::<Wrapped<Lease>>()?.inner()))
    }

    async fn holder(&self, app: &str, id: &str) -> Result<Option<String>, ProviderError> {
        let call = self.machines.get("see who holds the lease", &["apps", app, "machines", id, "lease"]);
        let reply = acting(call, "see lease", &[app, id]).reply().await?;
        if reply.status() == 404 {
            return Ok(None);
        }
        let holder: Wrapped<Holder> = reply.success()?.json()?;
        let is_a_name = |owner: &String| {
            owner.len() <= 64 && owner.bytes().all(|b| b.is_ascii_alphanumeric() || b"@._+-:".contains(&b))
        };
        Ok(holder.inner().owner.filter(is_a_name))
    }

    /// Gives the right back. One that has ended is done.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn release(&self, app: &str, id: &str, lease: &Lease) -> Result<(), ProviderError> {
        let call = self.machines.delete("release the machine", &["apps", app, "machines", id, "lease"]);
        let call = call.header("fly-machine-lease-nonce", &lease.nonce).repeatable();
        let reply = acting(call, "release", &[app, id]).reply().await?;
        if matches!(reply.status(), 404 | 409) { Ok(()) } else { reply.success().map(drop) }
    }

    /// The SHA-256 of what a running machine has in its environment as `variable`; `None` when that is empty or not
    /// set. The value itself does not leave the machine, whose image must have `sh` and `sha256sum`.
    ///
    /// # Errors
    /// [`ProviderError::NotAsked`] for a name that no shell takes; [`ProviderError::Unexpected`] when the command
    /// failed.
    pub async fn secret_digest(
        &self,
        app: &str,
        machine: &str,
        variable: &str,
    ) -> Result<Option<[u8; 32]>, ProviderError> {
        let script = format!("printf %s \"${variable}\" | sha256sum");
        let reply = self.execute(app, machine, variable, &script).await?;
        digest(&reply)
    }

    /// What a running machine has in its environment as `variable`; `None` when that is empty or not set. The image must
    /// have `sh`.
    ///
    /// # Errors
    /// Those of [`secret_digest`](Self::secret_digest).
    pub async fn secret_value(
        &self,
        app: &str,
        machine: &str,
        variable: &str,
    ) -> Result<Option<SecretText>, ProviderError> {
        #[derive(Deserialize)]
        struct Printed {
            #[serde(default)]
            exit_code: i64,
            stdout: Option<SecretText>,
        }
        let script = format!("printf %s \"${variable}\"");
        let reply = self.execute(app, machine, variable, &script).await?;
        let printed: Printed = reply.json()?;
        // The status is 200 whatever the command did.
        if printed.exit_code != 0 {
            return Err(reply.unexpected("the command failed: has the image sh?"));
        }
        Ok(printed.stdout.filter(|value| !value.expose().is_empty()))
    }

    /// Runs a script that names `variable` on a machine.
    async fn execute(
        &self,
        app: &str,
        machine: &str,
        variable: &str,
        script: &str,
    ) -> Result<Reply, ProviderError> {
        let name = "run a command on the machine";
        let is_a_name = !variable.is_empty()
            && !variable.starts_with(|first: char| first.is_ascii_digit())
            && variable.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_a_name {
            let why = "its environment has no variable of such a name";
            return Err(ProviderError::NotAsked { provider: PROVIDER, call: name, why });
        }
        let body = json!({ "command": ["sh", "-c", script], "timeout": 10 });
        let call = self.machines.post(name, &["apps", app, "machines", machine, "exec"]).json(&body);
        acting(call.repeatable(), "exec", &[app, machine]).send().await
    }
}

fn digest(reply: &Reply) -> Result<Option<[u8; 32]>, ProviderError> {
    let executed: Executed = reply.json()?;
    // The status is 200 whatever the command did.
    if executed.exit_code != 0 {
        return Err(reply.unexpected("the command failed: has the image sh and sha256sum?"));
    }
    let mut digest = [0; 32];
    let text = executed.stdout.split_whitespace().next().unwrap_or_default();
    hex::decode_to_slice(text, &mut digest).map_err(|_| reply.unexpected("no SHA-256"))?;
    Ok((digest != <[u8; 32]>::from(Sha256::digest(b""))).then_some(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(state: &str, config: Value, checks: Value) -> Machine {
        serde_json::from_value(json!({
            "id": "m", "state": state, "region": "fra", "instance_id": "01", "config": config, "checks": checks,
        }))
        .unwrap()
    }

    #[test]
    fn a_machine_is_healthy_when_every_check_passes_and_those_configured_have_spoken() {
        let passing = || json!([{ "name": "a", "status": "passing" }]);
        let checked = || json!({ "checks": { "alive": { "type": "http" } } });
        assert!(machine("started", json!({}), json!([])).is_healthy());
        assert!(machine("started", checked(), passing()).is_healthy());
        assert!(!machine("started", checked(), json!([])).is_healthy());
        let service = json!({ "services": [{ "checks": [{ "type": "tcp" }] }] });
        assert!(!machine("started", service, json!([])).is_healthy());
        assert!(!machine("starting", checked(), passing()).is_healthy());
        let mixed = json!([{ "status": "passing" }, { "status": "critical" }]);
        assert!(!machine("started", checked(), mixed).is_healthy());
    }

    #[test]
    fn a_machine_is_down_where_nothing_runs_and_shows_no_configuration() {
        let down = |state| machine(state, json!({ "env": { "DATABASE_URL": "secret" } }), json!([]));
        assert!(["stopped", "suspended", "created", "destroyed"].iter().all(|state| down(state).is_down()));
        assert!(["started", "starting", "stopping", "failed"].iter().all(|state| !down(state).is_down()));
        assert!(!format!("{:?}", down("started")).contains("secret"));
        assert!(machine("started", json!({ "mounts": [{ "volume": "vol_1" }] }), json!([])).has_volume());
        assert!(!machine("started", json!({ "mounts": [] }), json!([])).has_volume());
        assert!(!machine("started", Value::Null, json!([])).has_volume());
    }

    #[test]
    fn machines_of_a_command_do_not_serve() {
        let of = |group| machine("started", json!({ "metadata": { "fly_process_group": group } }), json!([]));
        assert!(of("app").serves());
        assert!(!of("fly_app_release_command").serves());
        assert!(!machine("destroyed", json!({}), json!([])).serves());
    }
}
