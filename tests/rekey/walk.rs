//! Dying at every step: a process is killed before and after each boundary of its work, another one goes on, and
//! every plaintext is what it was.
//!
//! The work is all that an operator has to do: a part of a run, the rest of it, the quarantined values again, the
//! fence, the last sweep, a verify, the end of the old key; or a staged run. A lap of it that nobody dies in tells how
//! often each step is taken. Then a process of its own dies at the first such time: by SIGKILL and by its own hand, so
//! that it is that instant and no other. To v3 and staged, on Postgres, it also dies at a time in the middle: how far
//! the work has come matters to the engine, which is the same to v2 and on SQLite.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use reseal::{
    envelope::Format,
    rekey::{Hook, Moment, Step},
    store::AuditHead,
};
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use self::{
    obstacles::{Obstacles, Way},
    road::{BAD_VALUES, NEW, Pool, ROWS, Road},
};
use super::stage::{IndependentKeys, Stage, Under};
use crate::support::{
    postgres::TestDatabase,
    tenants::{Expected, Holds},
};

mod obstacles;
mod road;

/// Deaths under way at once: much of each is waiting.
const AT_ONCE: usize = 4;

/// What the half that dies is told, in its environment.
const ORDERS: &str = "RESEAL_TEST_DIE_AT";

#[derive(Serialize, Deserialize)]
struct Orders {
    road: Road,
    step: String,
    after: bool,
    time: u32,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the half of the tests below that dies; they start it in a process of its own"]
async fn the_half_that_dies() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let step = Step::ALL.iter().copied().find(|step| step.as_str() == orders.step).unwrap();
    let moment = if orders.after { Moment::After } else { Moment::Before };
    let way = Way::to(step);
    let obstacles = Obstacles::new(&orders.road, way);
    let hook = Hook::new(move |now, at| {
        let time = obstacles.meet(now, at);
        if (now, at, time) == (step, moment, orders.time) {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
    });
    orders.road.travel(hook, way).await;
}

/// What only a staged run does.
const STAGING: [Step; 8] = [
    Step::OpenStaging,
    Step::ReadUnstaged,
    Step::Stage,
    Step::BeginSwap,
    Step::ReadChanged,
    Step::FinishSwap,
    Step::ClearStaged,
    Step::CloseStaging,
];

/// What a staged run, and the sweep after it, never do.
const NEVER_STAGED: [Step; 13] = [
    Step::MakeDataKey,
    Step::UnwrapDataKey,
    Step::Renew,
    Step::UnwrapValueKey,
    Step::MakeValueKey,
    Step::Fingerprint,
    Step::SettleConflicts,
    Step::DeferRow,
    Step::Release,
    Step::ReadRow,
    Step::SettleQuarantined,
    Step::RaiseFence,
    Step::Retire,
];

#[tokio::test(flavor = "multi_thread")]
async fn dying_at_any_step_from_v1_to_v3_loses_nothing() {
    let elsewhere = [&STAGING[..], &[Step::MakeValueKey]].concat();
    walk(Ground::on_postgres(Format::V3).await, &elsewhere, Times::FirstAndMiddle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_at_any_step_from_v1_to_v2_loses_nothing() {
    let elsewhere = [&STAGING[..], &[Step::MakeDataKey, Step::UnwrapDataKey]].concat();
    walk(Ground::on_postgres(Format::V2).await, &elsewhere, Times::First).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_at_any_step_on_sqlite_loses_nothing() {
    let elsewhere = [&STAGING[..], &[Step::MakeValueKey]].concat();
    walk(Ground::on_sqlite(Format::V3).await, &elsewhere, Times::First).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_at_any_step_of_a_staged_run_loses_nothing() {
    walk(Ground::on_postgres(Format::V1).await, &NEVER_STAGED, Times::FirstAndMiddle).await;
    walk(Ground::on_sqlite(Format::V1).await, &NEVER_STAGED, Times::First).await;
}

/// No hook is called inside a transaction, and none is needed: a row that is locked holds it where its shard's
/// checkpoint is written and its values are not.
#[tokio::test(flavor = "multi_thread")]
async fn dying_in_the_middle_of_a_commit_loses_nothing() {
    for format in [Format::V3, Format::V2] {
        let ground = Ground::on_postgres(format).await;
        let copy = ground.copy().await;
        let Pool::Postgres(pool) = &copy.pool else { unreachable!("as its name says") };
        let mut holder = pool.begin().await.unwrap();
        let first = "SELECT 1 FROM org_instances ORDER BY org_id LIMIT 1 FOR UPDATE";
        sqlx::query(first).execute(&mut *holder).await.unwrap();
        let later = Death { step: Step::MoveRun, moment: Moment::Before, time: 1 };
        let mut half = start(&copy.road, later, &ground.folder.path().join("within"));
        let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                       WHERE NOT l.granted AND a.datname = current_database()";
        let started = Instant::now();
        while copy.pool.number(waiting).await == 0 {
            assert!(started.elapsed() < Duration::from_secs(60), "it does not come to its commit");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        half.kill().unwrap();
        half.wait().unwrap();
        holder.rollback().await.unwrap();
        ground.resume(&copy, "in the middle of a commit").await;
        let runs = copy.pool.number("SELECT count(*) FROM reseal_runs").await;
        assert_eq!(runs, 2, "the one that was gone on with, and the last sweep");
    }
}

/// One death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Death {
    step: Step,
    moment: Moment,
    /// Which time the process comes there, from 1.
    time: u32,
}

/// At which times of all that a step is taken, there is a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Times {
    First,
    FirstAndMiddle,
}

/// Says how often it died; `elsewhere` are the steps that this way of re-keying does not have.
#[expect(clippy::print_stdout, reason = "its counts are worth a look: CONTRIBUTING.md says how")]
async fn walk(ground: Ground, elsewhere: &[Step], at: Times) {
    let started = Instant::now();
    let mut deaths = BTreeSet::new();
    for ((step, moment), times) in ground.lap().await {
        deaths.insert(Death { step, moment, time: 1 });
        if at == Times::FirstAndMiddle {
            deaths.insert(Death { step, moment, time: times.div_ceil(2) });
        }
    }
    let is_here = |step: &&Step| !elsewhere.contains(step);
    for &step in Step::ALL.iter().filter(is_here).filter(|&&step| Way::to(step) != Way::Plain) {
        deaths.extend([Moment::Before, Moment::After].map(|moment| Death { step, moment, time: 1 }));
    }
    for &step in Step::ALL {
        let met = [Moment::Before, Moment::After]
            .map(|moment| deaths.iter().any(|death| (death.step, death.moment) == (step, moment)));
        assert_eq!(met, [!elsewhere.contains(&step); 2], "{step:?} is not on the way");
    }

    let kills = deaths.len();
    let mut deaths = Vec::from_iter(deaths);
    // What has to be waited for first, beside all the others.
    deaths.sort_by_key(|death| Way::to(death.step) == Way::Plain);
    let conflicts: i64 = stream::iter(deaths)
        .map(|death| ground.die(death))
        .buffer_unordered(AT_ONCE)
        .fold(0, |sum, conflicts| async move { sum + conflicts })
        .await;
    println!(
        "killed at every step of {}: {kills} kills, {kills} resumes, {conflicts} conflicts, {} rows, {:.0} s",
        ground.name,
        kills * ROWS,
        started.elapsed().as_secs_f64()
    );
}

/// A table filled in, of which each death gets a copy.
struct Ground {
    name: String,
    road: Road,
    expected: Expected,
    folder: TempDir,
    /// Where it is; on SQLite it is a file in the folder.
    database: Option<TestDatabase<'static>>,
}

/// One copy.
struct Copy {
    road: Road,
    pool: Pool,
    _database: Option<TestDatabase<'static>>,
}

impl Ground {
    async fn on_postgres(format: Format) -> Self {
        let Stage { on, expected, folder, .. } = Stage::new("walk", ROWS).await;
        on.pool.close().await;
        let url = on.database.url();
        let name = way_to(format, "Postgres");
        Self::build(name, url, format, expected, folder, Some(on.database)).await
    }

    async fn on_sqlite(format: Format) -> Self {
        let Stage { expected, folder, .. } = Stage::on_sqlite(ROWS).await;
        let url = format!("sqlite://{}", folder.path().join("tenants.db").display());
        Self::build(way_to(format, "SQLite"), url, format, expected, folder, None).await
    }

    async fn build(
        name: String,
        url: String,
        format: Format,
        mut expected: Expected,
        folder: TempDir,
        database: Option<TestDatabase<'static>>,
    ) -> Self {
        let road = Road::build(url, folder.path(), format, &mut expected).await;
        Self { name, road, expected, folder, database }
    }

    async fn copy(&self) -> Copy {
        static COPIES: AtomicU32 = AtomicU32::new(0);
        let (url, database) = match &self.database {
            Some(database) => {
                let copy = database.copy();
                (copy.url(), Some(copy))
            }
            None => {
                let copy = format!("copy-{}.db", COPIES.fetch_add(1, Ordering::Relaxed));
                let copy = self.folder.path().join(copy);
                fs::copy(self.folder.path().join("tenants.db"), &copy).unwrap();
                (format!("sqlite://{}", copy.display()), None)
            }
        };
        let pool = Pool::connect(&url).await;
        Copy { road: Road { url, ..self.road.clone() }, pool, _database: database }
    }

    /// A lap that nobody dies in: how often each step was taken.
    async fn lap(&self) -> BTreeMap<(Step, Moment), u32> {
        let copy = self.copy().await;
        let obstacles = Arc::new(Obstacles::new(&copy.road, Way::Plain));
        let hook = Hook::new({
            let obstacles = Arc::clone(&obstacles);
            move |step, moment| {
                obstacles.meet(step, moment);
            }
        });
        copy.road.travel(hook, Way::Plain).await;
        self.check(&copy, "nobody died").await;
        obstacles.met()
    }

    /// One death, and what comes after it; gives the conflicts that were met.
    async fn die(&self, death: Death) -> i64 {
        let copy = self.copy().await;
        let said = format!("{}-{:?}-{}", death.step.as_str(), death.moment, death.time);
        let said = self.folder.path().join(said);
        let ended = wait_for(start(&copy.road, death, &said)).await;
        let said = fs::read_to_string(said).unwrap();
        assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()), "{death:?} was not reached: {said}");
        self.resume(&copy, death).await
    }

    /// What comes after a death.
    async fn resume(&self, copy: &Copy, what: impl Debug) -> i64 {
        // The leases of the dead run out within 20 s; here they run out at once.
        copy.pool.execute("UPDATE reseal_shards SET lease_until = NULL").await;
        copy.road.travel(Hook::default(), Way::Plain).await;
        self.check(copy, what).await
    }

    /// Every plaintext by other means than those under test, and that everything was done once and adds up.
    async fn check(&self, copy: &Copy, what: impl Debug) -> i64 {
        let pool = &copy.pool;
        let mut expected = Expected(self.expected.0.clone());
        let mut rewritten_later = 0;
        for (row, text) in pool.ledger().await {
            rewritten_later += i64::from(row == self.road.rewritten.behind_the_cursor);
            expected.0.get_mut(&row.parse().unwrap()).unwrap()[0] = Holds::Sealed(text);
        }
        let (store, stored) = (copy.road.store().await, pool.stored().await);
        let new = self.folder.path().join("new");
        let under = match self.road.format {
            Format::V1 => Under::Static(&NEW),
            Format::V2 => Under::Wrapped(&new),
            Format::V3 => Under::Bound(&new),
        };
        let keys = IndependentKeys::load(store.as_ref(), &stored, &under).await;
        let differences = expected.differences(&stored, |cell, value| keys.open(&under, cell, value));
        assert_eq!(differences, [""; 0], "{what:?}");

        let mut head = AuditHead::START;
        for record in store.audit_page(0, 1000).await.unwrap() {
            assert_eq!(
                (record.seq, record.hash),
                (head.seq + 1, record.expected_hash(&head.hash)),
                "{what:?}"
            );
            head = AuditHead { seq: record.seq, hash: record.hash };
        }

        let number = async |query| pool.number(query).await;
        let open = "SELECT count(*) FROM reseal_runs WHERE state NOT IN ('complete', 'quarantined')";
        assert_eq!(number(open).await, 0, "{what:?}");
        assert_eq!(number("SELECT count(*) FROM reseal_shards WHERE NOT done").await, 0, "{what:?}");
        assert_eq!(number("SELECT count(*) FROM reseal_quarantine").await, 0, "{what:?}");
        let bound = i64::from(self.road.format == Format::V3);
        assert_eq!(number("SELECT count(*) FROM reseal_data_keys").await, bound, "{what:?}");
        let wrong = "SELECT count(*) FROM reseal_shards \
                     WHERE total <> rekeyed + current + empty + quarantined + vanished";
        assert_eq!(number(wrong).await, 0, "{what:?}");
        let scanned = "SELECT CAST(sum(scanned) AS bigint) FROM reseal_shards";
        let runs = number("SELECT count(*) FROM reseal_runs").await;
        // The one that somebody else writes may be left to the sweeps that count none.
        let all = runs * (count(ROWS) - 1)..=runs * count(ROWS);
        assert!(all.contains(&number(scanned).await), "{what:?}");
        if self.road.format == Format::V1 {
            assert_eq!(number("SELECT count(*) FROM reseal_staged").await, 0, "{what:?}");
        } else {
            assert_eq!(number("SELECT count(*) FROM reseal_retirements").await, 1, "{what:?}");
            let rekeyed = number("SELECT CAST(sum(rekeyed) AS bigint) FROM reseal_shards").await;
            let sealed = count(expected.sealed());
            assert_eq!(rekeyed, sealed - BAD_VALUES + rewritten_later, "each value once: {what:?}");
        }
        number("SELECT CAST(sum(conflicts) AS bigint) FROM reseal_shards").await
    }
}

fn way_to(format: Format, database: &str) -> String {
    match format {
        Format::V1 => format!("a staged run on {database}"),
        Format::V2 | Format::V3 => format!("v1 to {format} on {database}"),
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap()
}

/// Travels, in a process of its own, until it dies; `said` takes what it has to say if it does not.
fn start(road: &Road, death: Death, said: &Path) -> Child {
    let orders = Orders {
        road: road.clone(),
        step: death.step.as_str().to_owned(),
        after: death.moment == Moment::After,
        time: death.time,
    };
    Command::new(std::env::current_exe().unwrap())
        .args(["rekey::walk::the_half_that_dies", "--exact", "--ignored", "--nocapture"])
        .env(ORDERS, serde_json::to_string(&orders).unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(said).unwrap())
        .spawn()
        .unwrap()
}

async fn wait_for(mut half: Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(ended) = half.try_wait().unwrap() {
            return ended;
        }
        if started.elapsed() > Duration::from_secs(60) {
            drop(half.kill());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
