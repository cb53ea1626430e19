//! An app: its vault, every version of it, and its machines.

use std::{collections::BTreeMap, time::Instant};

use axum::http::HeaderMap;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::{Environment, now};

#[derive(Default)]
pub(super) struct App {
    /// Every version of the vault; the last is in force.
    pub(super) vaults: Vec<BTreeMap<String, Kept>>,
    pub(super) machines: Vec<Machine>,
}

#[derive(Clone)]
pub(super) struct Kept {
    pub(super) value: String,
    pub(super) created: String,
    pub(super) updated: String,
}

pub(super) struct Machine {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) state: &'static str,
    /// Looks until it is in the state that it is on its way to.
    pub(super) looks_left: usize,
    pub(super) region: String,
    pub(super) cordoned: bool,
    pub(super) sick: bool,
    /// Whether its environment was found good when it was last looked at.
    pub(super) sound: bool,
    pub(super) config: Value,
    pub(super) updated: String,
    pub(super) environment: Environment,
    pub(super) lease: Option<Held>,
    pub(super) restarts: usize,
}

pub(super) struct Held {
    pub(super) nonce: String,
    pub(super) owner: String,
    pub(super) until: Instant,
    pub(super) seconds: u32,
}

impl App {
    pub(super) fn vault(&self) -> &BTreeMap<String, Kept> {
        self.vaults.last().expect("a vault has a version from the start")
    }

    pub(super) fn version(&self) -> usize {
        self.vaults.len()
    }

    /// The vault's newest version but `behind`.
    pub(super) fn environment(&self, behind: usize) -> Environment {
        let vault = &self.vaults[self.version().saturating_sub(1 + behind)];
        vault.iter().map(|(name, kept)| (name.clone(), kept.value.clone())).collect()
    }

    pub(super) fn set(&mut self, values: &Value) {
        let mut vault = self.vault().clone();
        for (name, value) in values.as_object().into_iter().flatten() {
            let created = vault.get(name).map_or_else(now, |kept| kept.created.clone());
            match value.as_str() {
                Some(value) => {
                    vault.insert(name.clone(), Kept { value: value.to_owned(), created, updated: now() });
                }
                None => drop(vault.remove(name)),
            }
        }
        self.vaults.push(vault);
    }

    pub(super) fn listed(&self) -> Value {
        let shown = |(name, kept): (&String, &Kept)| {
            let digest = hex::encode(&Sha256::digest(&kept.value)[..8]);
            json!({ "name": name, "digest": digest, "created_at": kept.created, "updated_at": kept.updated })
        };
        self.vault().iter().map(shown).collect()
    }

    pub(super) fn machine(&mut self, id: &str) -> Option<&mut Machine> {
        self.machines.iter_mut().find(|machine| machine.id == id)
    }
}

impl Machine {
    pub(super) fn new(id: &str, state: &'static str) -> Self {
        Self {
            id: id.to_owned(),
            name: format!("name-of-{id}"),
            version: Ulid::generate().to_string(),
            state,
            looks_left: 0,
            region: "fra".to_owned(),
            cordoned: false,
            sick: false,
            sound: true,
            config: json!({
                "image": "registry.fly.io/molecule-cp:1",
                "env": { "PORT": "8080" },
                "metadata": { "fly_process_group": "app", "owner": "somebody" },
                "checks": { "alive": { "type": "http", "port": 8080, "path": "/health" } },
                "guest": { "cpu_kind": "shared", "cpus": 1, "memory_mb": 512 },
            }),
            updated: now(),
            environment: Environment::new(),
            lease: None,
            restarts: 0,
        }
    }

    /// Whether it is up, or would be.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, "started" | "starting" | "failed")
    }

    /// Whether it passes its checks.
    pub(super) fn passes(&self) -> bool {
        self.state == "started" && !self.sick && self.sound
    }

    pub(super) fn shown(&self) -> Value {
        let status = if self.passes() { "passing" } else { "critical" };
        json!({
            "id": self.id, "name": self.name, "state": self.state, "region": self.region,
            "instance_id": self.version, "private_ip": "fdaa::3", "config": self.config,
            "checks": [{ "name": "alive", "status": status, "output": "", "updated_at": self.updated }],
            "created_at": self.updated, "updated_at": self.updated, "host_status": "ok",
            "cordoned": self.cordoned,
        })
    }

    /// Starts with what the vault has, and its own configuration's variables where the vault has none of the name.
    pub(super) fn start(&mut self, vault: Environment) {
        self.environment = vault;
        for (name, value) in self.config["env"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            self.environment.entry(name.clone()).or_insert(value);
        }
    }

    /// Begins to start with what the vault has; so many looks later it has started.
    pub(super) fn launch(&mut self, vault: Environment, looks: usize) {
        self.start(vault);
        (self.state, self.looks_left) = ("starting", looks);
        self.updated = now();
    }

    /// Goes on, as it does between two looks.
    pub(super) fn go_on(&mut self) {
        let was_left = self.looks_left;
        self.looks_left = was_left.saturating_sub(1);
        self.state = match self.state {
            "starting" if was_left == 0 => "started",
            "stopping" if was_left == 0 => "stopped",
            "created" | "replacing" if was_left == 1 => "stopped",
            state => state,
        };
    }

    pub(super) fn held(&self) -> Option<&Held> {
        self.lease.as_ref().filter(|lease| lease.until > Instant::now())
    }

    /// Whether somebody else than the holder of the header's nonce has the lease.
    pub(super) fn is_barred_to(&self, headers: &HeaderMap) -> bool {
        let nonce = headers.get("fly-machine-lease-nonce").and_then(|nonce| nonce.to_str().ok());
        self.held().is_some_and(|held| Some(held.nonce.as_str()) != nonce)
    }
}
