//! Everything at once: two processes re-key a table that others write under the old keys and the new one, while
//! processes are killed and put to sleep, the database crashes, and the KMS stumbles. In the end every cell holds
//! what was last written to it, by the word of those who wrote it.
//!
//! `RESEAL_CHAOS_SEED` decides what happens, though not when it is noticed; `RESEAL_CHAOS_SECONDS` how long.

use std::{
    str::FromStr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use self::{
    processes::{Ended, Site},
    world::{World, Writer},
};
use crate::support::{
    fault_proxy::{Fault, FaultProxy, Rule},
    moto::Moto,
    postgres::TempPostgres,
};

mod processes;
mod world;

const ROWS: usize = 50_000;

/// Half of them with an old key, half with the new one.
const WRITERS: usize = 4;

/// How long trouble lasts, unless the environment says otherwise.
const SECONDS: u64 = 20;

/// How long the database is left alone after a crash, at least.
const BETWEEN_CRASHES: Duration = Duration::from_secs(5);

/// What happened.
#[derive(Debug, Default)]
struct Toll {
    kills: u32,
    naps: u32,
    crashes: u32,
    faults: usize,
    resumes: u32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_every_cell_holds_what_was_last_written_to_it() {
    let seed = from_environment("RESEAL_CHAOS_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let seconds: u64 = from_environment("RESEAL_CHAOS_SECONDS").unwrap_or(SECONDS);
    println!("RESEAL_CHAOS_SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let cluster: &'static TempPostgres = Box::leak(Box::new(TempPostgres::start()));
    let database = cluster.database("chaos");
    let proxy = FaultProxy::start(Moto::shared().url());
    let world = Arc::new(World::build(&database, ROWS, seed).await);
    let site = Site::build(&database.url(), &proxy, &world);
    site.reseal(&["init"]).exits(0);

    // The first process makes the data key; only then can others write under it.
    let mut toll = Toll::default();
    let mut processes = vec![site.run(1)];
    while world.find_new_key().await.is_none() {
        assert!(processes[0].ended().is_none(), "{}", site.said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    processes.push(site.run(2));
    site.reseal(&["fence", "observe", "--format", "v3", "--new", &world.new_kms]).exits(0);
    let writers = [Writer::OldKey, Writer::NewKey].into_iter().cycle().take(WRITERS).zip(seed..);
    let writers: Vec<_> =
        writers.map(|(key, seed)| tokio::spawn(Arc::clone(&world).write(key, seed))).collect();

    let until = Instant::now() + Duration::from_secs(seconds);
    let mut crashed = Instant::now();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(dice.random_range(100..700))).await;
        toll.resumes += site.start_again(&mut processes);
        let one = dice.random_range(0..processes.len());
        match dice.random_range(0..100) {
            0..45 => {
                processes[one].kill();
                toll.kills += 1;
                toll.resumes += site.start_again(&mut processes);
                // Its leases run out by themselves, or at once.
                if dice.random_bool(0.8) {
                    world.expire_leases().await;
                }
            }
            // Presumed dead, and back again.
            45..60 => {
                processes[one].stop();
                world.expire_leases().await;
                tokio::time::sleep(Duration::from_millis(dice.random_range(200..1500))).await;
                processes[one].go_on();
                toll.naps += 1;
            }
            60..85 => {
                let faults = [
                    Fault::THROTTLE,
                    Fault::BREAK,
                    Fault::DENY,
                    Fault::LoseReply,
                    Fault::Delay(Duration::from_millis(400)),
                ];
                let times = dice.random_range(1..12);
                proxy.inject(Rule::next(times, faults[dice.random_range(0..faults.len())]));
                toll.faults += times;
            }
            _ if crashed.elapsed() > BETWEEN_CRASHES => {
                tokio::task::spawn_blocking(|| cluster.restart_immediate()).await.unwrap();
                crashed = Instant::now();
                toll.crashes += 1;
            }
            _ => {}
        }
    }
    toll.faults -= proxy.clear();

    // The road to the end, while everybody writes on, those with an old key too.
    let stale = world.number("SELECT count(*) FROM reseal_fence_events").await;
    assert!(stale > 0, "the fence has seen who writes under an old key");
    let new_key = ["--format", "v3", "--new", &world.new_kms];
    site.reseal(&[&["fence", "enforce"], &new_key[..]].concat()).exits(0);
    let deadline = Instant::now() + Duration::from_secs(600);
    while !processes.iter_mut().any(|process| matches!(process.ended(), Some(Ended::Complete))) {
        assert!(Instant::now() < deadline, "it does not end: {}", site.said());
        toll.resumes += site.start_again(&mut processes);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(processes);
    site.reseal(&site.last_sweep()).exits(0);
    site.reseal(&[&["verify"], &new_key[..]].concat()).exits(0);
    site.reseal(&[&["retire", "static:env:OLD_KEY"], &new_key[..]].concat()).exits(0);
    site.reseal(&["audit", "verify"]).exits(0);
    world.is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(world.refused.load(Ordering::Relaxed) > 0, "the fence refused those who went on with an old key");

    assert_eq!(world.differences().await, [""; 0], "seed {seed}");
    assert_eq!(world.number("SELECT count(*) FROM reseal_data_keys").await, 1, "no data key was made twice");
    let wrong = "SELECT count(*) FROM reseal_shards WHERE total <> rekeyed + current + empty + quarantined + vanished";
    assert_eq!(world.number(wrong).await, 0, "seed {seed}");
    assert_eq!(world.number("SELECT count(*) FROM reseal_quarantine").await, 0, "seed {seed}");
    site.kept_its_secrets(&world);
    let conflicts = world.number("SELECT sum(conflicts)::bigint FROM reseal_shards").await;
    let rekeyed = world.number("SELECT sum(rekeyed)::bigint FROM reseal_shards").await;
    let fences = world.number("SELECT sum(fence)::bigint FROM reseal_shards").await;
    let runs = world.number("SELECT count(*) FROM reseal_runs").await;
    println!(
        "chaos for {seconds} s: {} kills, {} naps, {} crashes of the database, {} faults of the KMS, {} resumes; \
         {ROWS} rows, {runs} runs, {fences} claims, {rekeyed} values re-keyed, {conflicts} conflicts, \
         {} writes by others and {} refused by the fence; nothing lost",
        toll.kills,
        toll.naps,
        toll.crashes,
        toll.faults,
        toll.resumes,
        world.writes.load(Ordering::Relaxed),
        world.refused.load(Ordering::Relaxed),
    );
}

fn from_environment<T: FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().ok().unwrap_or_else(|| panic!("{name} is a number")))
}
