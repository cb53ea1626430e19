//! Tenants at stand-ins for Fly and Neon: each a row whose values nobody can open any more, a machine that works only with
//! URLs that work, and a branch of its own.

use std::{
    collections::BTreeSet,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use reseal::{
    envelope::Format,
    journal::{Hook, Vault},
    keyring::{
        Attempt, ClearText,
        kms::{Kms, local::LocalKms},
    },
    providers::{Patience, fly::Fly as FlyClient, http::Manner as HttpManner, neon::Neon as NeonClient},
    rekey::{self, DataKeyScope, Intent, KeyChoice, Options},
    reprovision::{
        Asked, Ending, Facts, Manner, Plan, ReprovisionError, Run, Stop, Strategy, Variables, Works, open_run,
    },
    secret::{Plaintext, SecretText},
    store::{SagaRow, Store, Target, TargetName, TenantColumns, sqlite::Sqlite},
};
use serde_json::{Map, Value, json};
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use tokio::sync::{OnceCell, watch};
use url::Url;

use crate::support::{
    folder_in_memory,
    oracle::{self, Key},
    private_file,
    tenants::{COLUMNS, SQLITE_DDL, TABLE},
    vendors::{
        Seen, Vendor,
        fly::Fly,
        fresh,
        neon::{Neon, PROJECT, Tenant as Home},
    },
};

/// The app that every tenant's machine is in, unless they are apart.
pub(crate) const APP: &str = "molecule-tenants";

/// The shared Redis as it was, and as it is.
pub(crate) const OLD_REDIS: &str = "rediss://default:theoldpassword@shared.upstash.io:6379";
pub(crate) const NEW_REDIS: &str = "rediss://default:thenewpassword@shared.upstash.io:6379";

/// When every row was last changed.
pub(crate) const UNTOUCHED: &str = "2026-01-01 00:00:00";

/// As fast as it goes.
pub(crate) const BRISK: HttpManner = HttpManner {
    timeout: Duration::from_secs(5),
    tries: 3,
    pause: Duration::from_millis(1),
    paced: false,
    times: NonZero::<u32>::MIN,
};

/// Enough for a server of this machine, and longer than what a dead process has leased there.
pub(crate) const PATIENCE: Patience =
    Patience { every: Duration::from_millis(1), at_most: Duration::from_millis(100) };

/// What a world begins with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) tenants: usize,
    /// Whether machines have volumes.
    pub(crate) volumes: bool,
    /// Whether each tenant has an app and a project of its own.
    pub(crate) apart: bool,
    /// Whether the key of the old values is at hand.
    pub(crate) old_key: bool,
    /// Whether machines have no URL.
    pub(crate) bare: bool,
    /// Whether values are base64 in text.
    pub(crate) text: bool,
    /// What rows end in.
    pub(crate) format: Format,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            tenants: 2,
            volumes: false,
            apart: false,
            bare: false,
            old_key: false,
            text: false,
            format: Format::V1,
        }
    }
}

/// A tenant as it was in the beginning.
pub(crate) struct Tenant {
    pub(crate) org: String,
    pub(crate) app: String,
    pub(crate) machine: String,
    pub(crate) home: Home,
    pub(crate) redis: String,
    pub(crate) config: Value,
}

/// A row as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) machine: String,
    pub(crate) region: String,
    pub(crate) branch: String,
    pub(crate) updated_at: String,
    pub(crate) cells: [Option<Vec<u8>>; 2],
}

/// What a run does, but for its hook; a test may change it.
#[derive(Debug, Clone)]
pub(crate) struct Tuning {
    pub(crate) concurrency: usize,
    pub(crate) regions: Vec<String>,
    pub(crate) known_roles: Vec<String>,
    pub(crate) redis: Option<&'static str>,
    pub(crate) columns: TenantColumns,
    pub(crate) patience: Patience,
    pub(crate) http: HttpManner,
    pub(crate) fly_token: Option<String>,
    pub(crate) neon_token: Option<String>,
}

pub(crate) struct World {
    pub(crate) shape: Shape,
    pub(crate) fly: Arc<Fly>,
    pub(crate) neon: Arc<Neon>,
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) journal: Arc<dyn Store>,
    pub(crate) tuning: Mutex<Tuning>,
    /// Where the tenants' table is.
    store: Arc<dyn Store>,
    target: OnceCell<Target>,
    /// A connection to the tenants' table.
    table: tokio::sync::Mutex<SqliteConnection>,
    folder: TempDir,
}

/// A database with reseal's own tables and nothing else.
async fn template() -> &'static Path {
    static MADE: OnceCell<(TempDir, PathBuf)> = OnceCell::const_new();
    let made = MADE.get_or_init(async || {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("template.db");
        Sqlite::create(&path).await.unwrap().migrate().await.unwrap();
        let mut conn = connect(&path).await;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        (folder, path)
    });
    &made.await.1
}

async fn connect(path: &Path) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap()
}

/// Writes a static key where `static:file:` finds it.
pub(crate) fn keep(path: &Path, key: &Key) {
    private_file(path, &hex::encode(key));
}

/// A machine's configuration, with a URL in each place that may have one, and much else.
fn config(org: &str, url: &str, redis: &str, volumes: bool) -> Value {
    let other = format!("{}/analytics", url.rsplit_once('/').unwrap().0);
    let mut config = json!({
        "image": "registry.fly.io/tenant:deployment-1",
        "env": {
            "DATABASE_URL": url, "ANALYTICS_URL": other, "REDIS_URL": redis, "PORT": "8080",
            "TENANT": org, "TENANT_SECRET_KEY": fresh::value("tenant_"),
            "ELSEWHERE": "postgresql://who:knows@elsewhere.example/db",
        },
        "processes": [{ "name": "worker", "cmd": ["work"], "env": { "QUEUE_URL": redis, "PRIMARY": url } }],
        "files": [
            { "guest_path": "/etc/database-url", "raw_value": STANDARD.encode(format!("{url}\n")) },
            { "guest_path": "/etc/key", "raw_value": STANDARD.encode(fresh::value("file_")) },
            { "guest_path": "/etc/of-vault", "secret_name": "OF_VAULT" },
        ],
        "services": [{ "internal_port": 8080, "protocol": "tcp", "ports": [{ "port": 443 }] }],
        "checks": { "alive": { "type": "http", "port": 8080, "path": "/health" } },
        "metadata": { "fly_process_group": "app", "owner": "control-plane", "org": org },
        "guest": { "cpu_kind": "shared", "cpus": 1, "memory_mb": 512 },
        "restart": { "policy": "always" },
        "something": { "that": ["we", "do", "not", "know"] },
    });
    if volumes {
        config["mounts"] = json!([{ "volume": format!("vol_{org}"), "path": "/data" }]);
    }
    config
}

impl World {
    pub(crate) async fn start(shape: Shape) -> Self {
        Self::settled(shape, Neon::with_computes()).await
    }

    /// With this Neon, which speaks for its branches.
    pub(crate) async fn settled(shape: Shape, neon: Neon) -> Self {
        let folder = folder_in_memory();
        for name in ["journal.db", "tenants.db"] {
            std::fs::copy(template().await, folder.path().join(name)).unwrap();
        }
        LocalKms::create(&folder.path().join("keyring.json")).unwrap();
        let old: Key = rand::random();
        keep(&folder.path().join("old.key"), &old);
        keep(&folder.path().join("new.key"), &rand::random());
        let (fly, neon) = (Arc::new(Fly::start()), Arc::new(neon));
        fly.lease_seconds(Duration::from_millis(2));
        let judge = Arc::clone(&neon);
        fly.judge(move |environment| {
            let is_shared =
                |url: &String| [OLD_REDIS, NEW_REDIS].iter().any(|shared| url.starts_with(shared));
            environment.get("DATABASE_URL").is_none_or(|url| judge.accepts(url))
                && environment.get("REDIS_URL").is_none_or(is_shared)
        });
        fly.app(APP, &[]);
        let journal: Arc<dyn Store> =
            Arc::new(Sqlite::open(&folder.path().join("journal.db")).await.unwrap());
        let tuning = Tuning {
            concurrency: 1,
            regions: Vec::new(),
            known_roles: Vec::new(),
            redis: Some(NEW_REDIS),
            columns: TenantColumns::default(),
            patience: PATIENCE,
            http: BRISK,
            fly_token: None,
            neon_token: None,
        };
        let table = connect(&folder.path().join("tenants.db")).await;
        let mut world = Self {
            shape,
            fly,
            neon,
            tenants: Vec::new(),
            journal,
            tuning: Mutex::new(tuning),
            store: Arc::new(Sqlite::open(&folder.path().join("tenants.db")).await.unwrap()),
            target: OnceCell::new(),
            table: table.into(),
            folder,
        };
        world.people(&old).await;
        world
    }

    /// Makes the tenants, and the table that knows them.
    async fn people(&mut self, old: &Key) {
        let ddl = if self.shape.text { SQLITE_DDL.replace("BLOB", "TEXT") } else { SQLITE_DDL.to_owned() };
        self.execute(ddl).await;
        self.execute("BEGIN".to_owned()).await;
        for number in 0..self.shape.tenants {
            let tenant = self.tenant(number);
            let seal = |text: &str| {
                let value = oracle::seal_v1(old, None, text.as_bytes());
                if self.shape.text { STANDARD.encode(&value).into_bytes() } else { value }
            };
            let cells = [seal(&tenant.home.url), seal(&tenant.redis)];
            self.add_row(&tenant, cells).await;
            self.tenants.push(tenant);
        }
        self.execute("COMMIT".to_owned()).await;
    }

    fn tenant(&self, number: usize) -> Tenant {
        let org = format!("org-{number:03}");
        let (app, project) = match self.shape.apart {
            true => (format!("app-{org}"), format!("project-{org}")),
            false => (APP.to_owned(), PROJECT.to_owned()),
        };
        let home = self.neon.tenant(&project, &org);
        self.neon.write(&home.branch, "what the tenant wrote");
        if self.shape.apart {
            self.fly.app(&app, &[]);
        }
        let (redis, machine) = (format!("{OLD_REDIS}/{number}"), format!("machine{number:03}"));
        let mut config = config(&org, &home.url, &redis, self.shape.volumes);
        if self.shape.bare {
            config["env"] = json!({ "TENANT": org });
            (config["processes"], config["files"]) = (json!([]), json!([]));
        }
        self.fly.add(&app, &machine, "started", "fra", config.clone());
        Tenant { org, app, machine, home, redis, config }
    }

    async fn add_row(&self, tenant: &Tenant, cells: [Vec<u8>; 2]) {
        let [database, redis] = cells;
        let insert = sqlx::query(
            "INSERT INTO org_instances (org_id, slug, fly_app, fly_machine_id, fly_region, neon_project_id, \
             neon_branch_id, status, database_url_encrypted, redis_url_encrypted, updated_at) \
             VALUES (?1, ?1, ?2, ?3, 'fra', ?4, ?5, 'running', ?6, ?7, ?8)",
        );
        let insert = insert.bind(&tenant.org).bind(&tenant.app).bind(&tenant.machine);
        let insert = insert.bind(&tenant.home.project).bind(&tenant.home.branch);
        let insert = match self.shape.text {
            true => insert.bind(String::from_utf8(database).unwrap()).bind(String::from_utf8(redis).unwrap()),
            false => insert.bind(database).bind(redis),
        };
        insert.bind(UNTOUCHED).execute(&mut *self.table.lock().await).await.unwrap();
    }

    /// A file of the world: `tenants.db`, `journal.db`, `keyring.json`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Changes how runs go about it.
    pub(crate) fn tune(&self, turn: impl FnOnce(&mut Tuning)) {
        turn(&mut self.tuning.lock().unwrap());
    }

    /// What a process works with that begins now.
    pub(crate) async fn works(&self, hook: Hook) -> Works {
        let tuning = self.tuning.lock().unwrap().clone();
        let file = |name: &str| self.file(name).display().to_string();
        let old = if self.shape.old_key {
            vec![format!("static:file:{}", file("old.key")).parse().unwrap()]
        } else {
            Vec::new()
        };
        let new = match self.shape.format {
            Format::V1 => format!("static:file:{}", file("new.key")),
            Format::V2 | Format::V3 => format!("local-kms:{}", file("keyring.json")),
        };
        let keys = KeyChoice {
            old,
            new: new.parse().unwrap(),
            format: self.shape.format,
            scope: DataKeyScope::Row,
            new_data_key: false,
            clear_text: ClearText::Quarantine,
        };
        let (store, target) = (Arc::clone(&self.store), self.target().await.clone());
        let job = rekey::prepare(store, target, &keys, Options::default(), Intent::Run).await.unwrap();
        let kms: Arc<dyn Kms> = Arc::new(LocalKms::open(&self.file("keyring.json")).unwrap());
        let token = Arc::new(SecretText::new(tuning.fly_token.unwrap_or_else(|| self.fly.user_token())));
        let key = SecretText::new(tuning.neon_token.unwrap_or_else(|| self.neon.token().to_owned()));
        Works {
            fly: FlyClient::new(&self.fly.machines_url(), &self.fly.graphql_url(), token, tuning.http)
                .unwrap(),
            neon: NeonClient::new(self.neon.vendor.url(), key, tuning.http).unwrap(),
            job: Arc::new(job),
            keys,
            columns: tuning.columns,
            journal: Arc::clone(&self.journal),
            vault: Vault::unlock(self.journal.as_ref(), &kms).await.unwrap(),
            redis: tuning.redis.map(|url| SecretText::new(url.to_owned())),
            variables: Variables::default(),
            known_roles: tuning.known_roles,
            regions: tuning.regions,
            manner: Manner {
                concurrency: tuning.concurrency,
                patience: tuning.patience,
                login: Duration::from_secs(5),
                tries: 3,
                pause: Duration::from_millis(1),
                apart: Duration::from_millis(1),
                hook,
            },
        }
    }

    async fn target(&self) -> &Target {
        let inspected = self.target.get_or_init(async || {
            let columns = COLUMNS.iter().map(|&name| name.to_owned()).collect();
            let (table, key_column) = (TABLE.to_owned(), "org_id".to_owned());
            let name = TargetName { logical: None, schema: None, table, key_column, columns };
            self.store.inspect(&name).await.unwrap().target.expect("a table with a key and two columns")
        });
        inspected.await
    }

    /// What an operator's command does: opens a run or takes it up, and goes as far as it goes.
    pub(crate) async fn drive(&self, hook: Hook, asked: &Asked) -> Result<Ending, ReprovisionError> {
        let works = self.works(hook).await;
        let tell = |_: &_| ();
        let run = match open_run(self.journal.as_ref(), TABLE).await? {
            Some(row) => Run::resume(&works, &row, &tell).await?,
            None => {
                let plan = Plan::of(&works, asked.clone()).await?;
                Run::open(&works, &plan, &tell).await?
            }
        };
        let (_hold, stop) = watch::channel(Stop::Never);
        let ending = run.advance(stop).await;
        run.release().await?;
        ending
    }

    /// Cuts short the lease that a dead process has left.
    pub(crate) async fn bury(&self) {
        let mut conn = connect(&self.file("journal.db")).await;
        sqlx::query("UPDATE reseal_reprovisions SET lease_until = 0").execute(&mut conn).await.unwrap();
    }

    /// Runs a statement on the tenants' table.
    pub(crate) async fn execute(&self, sql: String) {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *self.table.lock().await).await.unwrap();
    }

    /// A tenant's row, unless it is gone.
    pub(crate) async fn held(&self, org: &str) -> Option<Held> {
        let sql = "SELECT fly_machine_id, fly_region, neon_branch_id, updated_at, \
                   CAST(database_url_encrypted AS BLOB), CAST(redis_url_encrypted AS BLOB) \
                   FROM org_instances WHERE org_id = ?";
        let row = sqlx::query(sql).bind(org).fetch_optional(&mut *self.table.lock().await).await.unwrap()?;
        Some(Held {
            machine: row.get(0),
            region: row.get(1),
            branch: row.get(2),
            updated_at: row.get(3),
            cells: [row.get(4), row.get(5)],
        })
    }

    /// What a row's columns hold, where they open under the new key.
    pub(crate) async fn urls(&self, works: &Works, org: &str) -> [Option<String>; 2] {
        let held = self.held(org).await.expect("a row");
        let mut urls = [None, None];
        for (at, cell) in held.cells.into_iter().enumerate() {
            let Some(stored) = cell else { continue };
            let value = if self.shape.text { STANDARD.decode(&stored).unwrap() } else { stored };
            let mut plaintext = Plaintext::new();
            let opened = works.job.opener.open(at, org, &value, &mut plaintext).await.unwrap();
            if let Attempt::Opened(origin) = opened
                && works.job.sealer.is_current(&origin)
            {
                urls[at] = Some(String::from_utf8(plaintext.expose().to_vec()).unwrap());
            }
        }
        urls
    }

    /// Every tenant of the last run, as the journal has it.
    pub(crate) async fn sagas(&self) -> Vec<SagaRow> {
        let runs = self.journal.reprovisions(Some(TABLE)).await.unwrap();
        let Some(last) = runs.first() else { return Vec::new() };
        self.journal.sagas(&last.run_id, &[], -1, 10_000).await.unwrap()
    }

    /// A tenant of the last run.
    pub(crate) async fn saga(&self, org: &str) -> SagaRow {
        self.sagas().await.into_iter().find(|saga| saga.tenant == org).expect("a tenant of the run")
    }

    pub(crate) async fn facts(&self, org: &str) -> Facts {
        serde_json::from_str(&self.saga(org).await.detail).unwrap()
    }

    /// The ids of a tenant's machines that get requests and work.
    pub(crate) fn serving(&self, tenant: &Tenant) -> Vec<String> {
        let mut serving = self.fly.routed(&tenant.app);
        serving.retain(|id| self.fly.config(&tenant.app, id)["env"]["TENANT"] == *tenant.org);
        serving
    }

    pub(crate) fn vendors(&self) -> [&Vendor; 2] {
        [&self.fly.vendor, &self.neon.vendor]
    }

    pub(crate) fn heal(&self) {
        self.vendors().iter().for_each(|vendor| vendor.heal());
    }

    /// Every request so far that could change something.
    pub(crate) fn changes(&self) -> Vec<Seen> {
        let seen = self.vendors().into_iter().flat_map(Vendor::seen);
        // What asks for permission: there is no such secret, and there can be no such role.
        let asks = |seen: &Seen| seen.path.contains("/secrets/") || seen.path.contains("pg_no_role");
        seen.filter(|seen| seen.method != "GET" && !asks(seen)).collect()
    }
}

/// A run that asks for no rotations before it.
pub(crate) fn asked(strategy: Strategy, hard: bool) -> Asked {
    Asked {
        strategy,
        hard,
        data_loss_accepted: strategy == Strategy::Fresh,
        accept_unrotated: BTreeSet::from(["NEON_API_KEY", "TENANT_REDIS_URL"].map(str::to_owned)),
        ..Asked::default()
    }
}

/// A configuration in which `url` has taken the place of the tenant's old one, as a reader of the contract would do it.
pub(crate) fn renewed(tenant: &Tenant, url: &str, redis: &str) -> Value {
    let new: Url = url.parse().unwrap();
    let old: Url = tenant.home.url.parse().unwrap();
    let text = |text: &str| -> String {
        if text.trim_end() == tenant.redis {
            return redis.to_owned();
        }
        match text.trim_end().parse::<Url>() {
            Ok(mut url) if url.host() == old.host() && url.port() == old.port() => {
                url.set_password(new.password()).unwrap();
                url.set_host(new.host_str()).unwrap();
                url.set_port(new.port()).unwrap();
                let ending = &text[text.trim_end().len()..];
                format!("{url}{ending}")
            }
            _ => text.to_owned(),
        }
    };
    let variables = |variables: &mut Map<String, Value>| {
        variables.values_mut().for_each(|value| *value = text(value.as_str().unwrap()).into());
    };
    let mut config = tenant.config.clone();
    variables(config["env"].as_object_mut().unwrap());
    for process in config["processes"].as_array_mut().unwrap() {
        variables(process["env"].as_object_mut().unwrap());
    }
    for file in config["files"].as_array_mut().unwrap() {
        if let Some(raw) = file.get_mut("raw_value") {
            let before = String::from_utf8(STANDARD.decode(raw.as_str().unwrap()).unwrap()).unwrap();
            *raw = STANDARD.encode(text(&before)).into();
        }
    }
    config
}

/// A configuration without what reseal notes in it.
pub(crate) fn plain(mut config: Value) -> Value {
    let metadata = config["metadata"].as_object_mut().unwrap();
    metadata.retain(|name, _| !name.starts_with("reseal_"));
    config
}
