//! The command, killed again and again.

use std::{
    fs::{self, OpenOptions},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reseal::{envelope::Format, rekey::Outcome};
use rustix::process::{Pid, Signal, kill_process};
use uuid::Uuid;

use super::stage::{OLD, Stage, Under};
use crate::support::{oracle, tenants::Holds};

/// `reseal run`, in a process of its own; killed on drop.
struct Process(Child);

impl Process {
    /// `old` is the name of a key file, which is there already: another process may be reading it.
    fn start(stage: &Stage, old: &str, keyring: &Path, arguments: &[&str]) -> Self {
        let said = stage.folder.path().join("stderr");
        let said = OpenOptions::new().create(true).append(true).open(said).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_reseal"));
        command
            .args(["run", "--format", "v2", "--output", "json", "--batch", "25", "--old", old])
            .arg("--new")
            .arg(format!("local-kms:{}", keyring.display()))
            .args(arguments)
            .env("DATABASE_URL", stage.on.database.url())
            .current_dir(stage.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        Self(command.spawn().expect("the command is built before its tests"))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).expect("it was not waited for yet");
    }

    /// Its exit code once it has ended.
    fn ended(&mut self) -> Option<Option<i32>> {
        self.0.try_wait().unwrap().map(|status| status.code())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What all processes said on standard error.
fn said(stage: &Stage) -> String {
    fs::read_to_string(stage.folder.path().join("stderr")).unwrap_or_default()
}

async fn wait_for_exit(process: &mut Process) -> Option<i32> {
    let started = Instant::now();
    loop {
        if let Some(code) = process.ended() {
            return code;
        }
        assert!(started.elapsed() < Duration::from_secs(90), "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Dead workers' leases run out after 20 s; here they run out at once.
const EXPIRE: &str =
    "UPDATE reseal_shards SET lease_until = clock_timestamp() - interval '1 s' WHERE NOT done";

/// What the last run counted: state, rows, cells, and whether they add up.
async fn counted(stage: &Stage) -> (Outcome, i64, i64) {
    let run = stage.store.latest_run("org_instances").await.unwrap().unwrap();
    let tally = stage.store.tally(&run.run_id, None).await.unwrap();
    assert!(tally.sums());
    assert_eq!(stage.number("SELECT count(*) FROM reseal_runs").await, 1, "it was one run all along");
    let outcome = match run.state {
        reseal::store::RunState::Complete => Outcome::Complete,
        _ => Outcome::Failed,
    };
    (outcome, tally.scanned, tally.total)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_instant_and_started_again_it_completes() {
    const KILLS: usize = 16;
    let mut stage = Stage::new("killed", 5000).await;
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let rows: Vec<Uuid> = stage.expected.0.keys().copied().collect();

    // A control plane that still has the old key, for as long as there are kills.
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let writer = tokio::spawn({
        let pool = stage.on.pool.clone();
        async move {
            let mut written = Vec::new();
            while !*stopped.borrow_and_update() {
                let row = rows[rand::random_range(0..rows.len())];
                let text = format!("postgres://written/{}", written.len());
                let set = "UPDATE org_instances SET database_url_encrypted = $1 WHERE org_id = $2";
                let value = oracle::seal_v1(&OLD, None, text.as_bytes());
                sqlx::query(set).bind(value).bind(row).execute(&pool).await.unwrap();
                written.push((row, text));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            written
        }
    });
    let pace = ["--max-rows-per-second", "500", "--workers", "2"];
    let mut processes =
        [Process::start(&stage, &old, &keyring, &pace), Process::start(&stage, &old, &keyring, &pace)];
    stage.wait_for("SELECT count(*) FROM reseal_runs").await;
    let mut before = 0;
    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(rand::random_range(150..500))).await;
        let one = &mut processes[kill % 2];
        assert_eq!(one.ended(), None, "it was still at work: {}", said(&stage));
        one.signal(Signal::KILL);
        *one = Process::start(&stage, &old, &keyring, &pace);
        stage.execute(EXPIRE).await;
        let total = stage.number("SELECT sum(total)::bigint FROM reseal_shards").await;
        assert!(total >= before, "what was counted stays counted");
        before = total;
    }
    stop.send_replace(true);
    let written = writer.await.unwrap();
    let left_alone = 5000 - i64::try_from(written.len()).unwrap();
    for (row, text) in written {
        stage.expected.0.get_mut(&row).unwrap()[0] = Holds::Sealed(text);
    }
    drop(processes);
    let either = [Under::Static(&OLD), Under::Wrapped(&keyring)];
    assert_eq!(stage.differences_under_any(&either).await, [""; 0]);

    stage.execute(EXPIRE).await;
    let mut last = Process::start(&stage, &old, &keyring, &[]);
    assert_eq!(wait_for_exit(&mut last).await, Some(0), "{}", said(&stage));
    let (outcome, scanned, total) = counted(&stage).await;
    assert_eq!(outcome, Outcome::Complete);
    assert!((left_alone..=5000).contains(&scanned), "all but some that were written: {scanned}");
    assert!(total >= 2 * scanned, "each cell of theirs: {total}");
    assert_eq!(stage.differences(Under::Wrapped(&keyring)).await, [""; 0]);
    let choice = stage.choice(Format::V2, &[&old], &format!("local-kms:{}", keyring.display()));
    assert!(stage.verify(&choice).await.passed());
}

/// A process that sleeps through its lease, as on a paused virtual machine, and wakes up in the middle of a batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_slept_through_its_lease_writes_nothing() {
    let stage = Stage::new("slept", 2000).await;
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let pace = ["--max-rows-per-second", "400", "--workers", "1"];
    let mut sleeper = Process::start(&stage, &old, &keyring, &pace);
    stage.wait_for("SELECT coalesce(sum(scanned), 0)::bigint FROM reseal_shards").await;
    sleeper.signal(Signal::STOP);
    // The server ends a transaction that sleeps, within its 5 s.
    stage.execute(EXPIRE).await;
    let mut other = Process::start(&stage, &old, &keyring, &[]);
    assert_eq!(wait_for_exit(&mut other).await, Some(0), "{}", said(&stage));
    let done = counted(&stage).await;
    assert_eq!(done, (Outcome::Complete, 2000, 4000));
    assert_eq!(stage.differences(Under::Wrapped(&keyring)).await, [""; 0]);

    sleeper.signal(Signal::CONT);
    assert_eq!(wait_for_exit(&mut sleeper).await, Some(0), "it finds the run complete");
    assert_eq!(counted(&stage).await, done);
    assert_eq!(stage.differences(Under::Wrapped(&keyring)).await, [""; 0]);
}
