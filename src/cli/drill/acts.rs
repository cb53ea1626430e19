//! The acts: what is done, in which order, and what must hold after each.

use std::{sync::Arc, time::Instant};

use reseal::{
    envelope::Format,
    keyring::{
        ClearText,
        spec::{KeySpec, KmsSpec, StaticSource},
        static_key,
    },
    rekey::{self, DataKeyScope, Intent, Job, KeyChoice, Options},
    store::{Store, TargetName, sqlite::Sqlite},
};
use tokio::{sync::Mutex, time::sleep};

use super::{
    Folder,
    control_plane::{ControlPlane, keep_writing},
    program::{DATABASE, POLL, Program, Running},
    story::Story,
    tenants::{COLUMNS, TABLE},
};
use crate::{
    cli::{
        Fault, connect,
        stdio::{commas, duration},
    },
    config::quote,
};

/// The files in the drill's folder, beside the database.
const OLD_KEY: &str = "old.key";
const NEW_KEY: &str = "new.key";
const KEYRING: &str = "keyring.json";

/// Batches that the table is cut into until the kill, so that there is something between them.
const BATCHES: u32 = 40;

/// Seconds that the throttled first sweep would take, if nobody killed it.
const FIRST_SWEEP: u32 = 8;

/// Rows below which there is no way to be half done.
const SMALLEST_TO_KILL: u32 = 2;

/// Tenants of the machine that wakes up late.
const LATE: usize = 3;

/// Plays the drill from its first act to its last.
///
/// # Errors
/// The first thing that did not hold, by row and column where it is a value.
pub(super) async fn tell(rows: u32, format: Format, folder: &Folder) -> Result<(), Fault> {
    let started = Instant::now();
    let mut story = Story::new();
    let program = Program::new(&folder.path)?;
    let new =
        if format == Format::V1 { format!("static:file:{NEW_KEY}") } else { format!("local-kms:{KEYRING}") };
    let under = match format {
        Format::V1 => "another static key",
        Format::V2 | Format::V3 => "a KMS",
    };
    story.aside(format_args!("A table of tenants moves to {under} ({format}) while it is in use."));

    story.act("A table in use");
    let old_key = ["keygen", "--file", OLD_KEY];
    let new_key = match format {
        Format::V1 => ["keygen", "--file", NEW_KEY],
        Format::V2 | Format::V3 => ["keygen", "--local-kms", KEYRING],
    };
    for words in [old_key, new_key] {
        story.typed(&words);
        program.run(&words).await?.exits(&[0])?;
    }
    let store: Arc<dyn Store> = Arc::new(Sqlite::create(&folder.path.join(DATABASE)).await?);
    let old = static_key::load(&StaticSource::File(folder.path.join(OLD_KEY)))
        .map_err(|error| Fault::failed(error.to_string()))?;
    let mut plane = ControlPlane::new(&folder.path.join(DATABASE), &old.key).await?;
    plane.add(usize::try_from(rows).unwrap_or(usize::MAX)).await?;
    story.say(format_args!(
        "{} tenants, {} encrypted URLs under one static key (v1), {} NULLs.",
        commas(plane.rows()),
        commas(plane.values()),
        commas(2 * plane.rows() - plane.values())
    ));
    story.say(format_args!("From now on a control plane changes, inserts and deletes rows all the time,"));
    story.say(format_args!("and keeps a ledger: the SHA-256 of what it last wrote to every cell."));

    let plane = Mutex::new(plane);
    let mut drill = Drill { rows, format, folder, new, story, program, store, plane: &plane };
    let played = tokio::select! {
        played = drill.play(started) => played,
        Err(broken) = keep_writing(&plane) => Err(broken),
    };
    drop(drill);
    plane.into_inner().close().await?;
    played
}

struct Drill<'a> {
    rows: u32,
    format: Format,
    folder: &'a Folder,
    /// The new key's name, as it is typed in the folder.
    new: String,
    story: Story,
    program: Program,
    store: Arc<dyn Store>,
    plane: &'a Mutex<ControlPlane>,
}

impl Drill<'_> {
    async fn play(&mut self, started: Instant) -> Result<(), Fault> {
        self.look().await?;
        let killed_at = self.kill().await?;
        self.resume(killed_at).await?;
        let (rows, values) = self.prove().await?;
        self.story.held(format_args!(
            "Nothing was lost: {} tenants, {} values, {}.",
            commas(rows),
            commas(values),
            duration(started.elapsed().as_secs_f64())
        ));
        self.afterwards();
        Ok(())
    }

    async fn look(&mut self) -> Result<(), Fault> {
        self.story.act("Look before you leap");
        self.story.typed(&["init"]);
        self.program.run(&["init"]).await?.exits(&[0])?;
        let new = self.new.clone();
        let plan = self.typed("plan", &self.keys(&new), &["--output", "json"]).await?.exits(&[0])?;
        expect("values that no key opens", 0, plan.sum("/values/refused")?)?;
        self.story.say(format_args!(
            "{} rows to re-key, {} KMS calls; every value opens.",
            commas(plan.number("/rows/to_rekey")?),
            commas(plan.number("/kms_calls/run")?)
        ));
        self.story.say(format_args!(
            "{} old values begin with 0x02 or 0x03, as newer formats do. That is chance, and",
            commas(plan.number("/values/ambiguous")?)
        ));
        self.story.say(format_args!(
            "a re-key that went by the first byte would lose them. This one goes by the tag."
        ));
        Ok(())
    }

    /// The run, killed on its way; then every value, at that moment. Gives the rows that were read by then.
    async fn kill(&mut self) -> Result<Option<i64>, Fault> {
        self.story.act("kill -9");
        let (rate, batch) = ((self.rows / FIRST_SWEEP).max(1), (self.rows / BATCHES).clamp(1, 1000));
        let (rate, batch, new) = (rate.to_string(), batch.to_string(), self.new.clone());
        let slowly = ["--max-rows-per-second", rate.as_str(), "--batch", batch.as_str()];
        let can_be_killed = self.rows >= SMALLEST_TO_KILL;
        let pace = if can_be_killed { &slowly[..] } else { &[] };
        let words = [&["run"], &self.keys(&new)[..], pace].concat();
        self.story.typed(&words);
        let before = self.plane.lock().await.writes();
        let mut running = self.program.start(&[&words[..], &["--output", "json"]].concat())?;
        let at_two_fifths = |read: i64, all: i64| can_be_killed && 5 * read >= 2 * all;
        let killed = self.follow(&mut running, at_two_fifths).await?;
        if killed {
            running.kill()?;
        } else {
            // The control plane still writes under the old key: the run may say that it is chased.
            running.end()?.exits(&[0, 5])?;
            self.story.say(format_args!("So small a table is done before anyone can kill the run."));
        }

        let mut plane = self.plane.lock().await;
        let (read, all) = self.progress().await?.unwrap_or_default();
        if killed {
            self.story.say(format_args!(
                "Killed after {} of {} rows, and {} writes by the control plane meanwhile.",
                commas(read),
                commas(all),
                commas(plane.writes() - before)
            ));
        }
        let job = self.job().await?;
        let audit = plane.audit(&job).await?.holds()?;
        self.story.say(format_args!(
            "At that very moment {} values open under the new key and {} under the old,",
            commas(audit.new),
            commas(audit.old)
        ));
        self.story.say(format_args!("and every one of them is what the ledger says. 0 lost."));
        plane.end_leases().await?;
        plane.adopt(Arc::clone(&job.sealer));
        Ok(killed.then_some(read))
    }

    async fn resume(&mut self, killed_at: Option<i64>) -> Result<(), Fault> {
        self.story.act("The same command again");
        self.story
            .say(format_args!("The control plane is told of the new key, and writes under it from here on."));
        self.story
            .say(format_args!("The dead worker's lease would last up to 20 s; the drill cuts it short."));
        let new = self.new.clone();
        let words = [&["run"], &self.keys(&new)[..]].concat();
        self.story.typed(&words);
        let mut running = self.program.start(&[&words[..], &["--output", "json"]].concat())?;
        self.follow(&mut running, |_, _| false).await?;
        let run = running.end()?.exits(&[0])?;
        let sweeps = self.store.latest_run(TABLE).await?.map_or(0, |run| run.sweep);
        let scanned = commas(run.number("/rows/scanned")?);
        match killed_at {
            Some(row) => self.story.say(format_args!(
                "It went on at row {}; both processes together read {scanned} rows in the first sweep.",
                commas(row)
            )),
            None => self.story.say(format_args!("A new run read {scanned} rows in its first sweep.")),
        }
        self.story.say(format_args!(
            "{} sweeps, until one found nothing: {} values re-keyed, {} quarantined.",
            commas(sweeps),
            commas(run.number("/values/rekeyed")?),
            commas(run.number("/values/quarantined")?)
        ));
        self.story.say(format_args!(
            "{} times the control plane had changed a value first; its write stayed.",
            commas(run.number("/conflicts")?)
        ));
        Ok(())
    }

    /// A write under the old key after the end, found and mended; then the proof, twice. Gives rows and values.
    async fn prove(&mut self) -> Result<(i64, i64), Fault> {
        let mut plane = self.plane.lock().await;
        self.story.act("The machine that slept through the deploy");
        let before = plane.values();
        plane.add_late(LATE).await?;
        let late = plane.values() - before;
        self.story.say(format_args!(
            "It wakes, adds {LATE} tenants under the old key ({late} values), and is stopped at last."
        ));
        let (new, format) = (self.new.clone(), self.format.to_string());
        let verify = ["--new", new.as_str(), "--format", format.as_str()];
        let found = self.typed("verify", &verify, &["--output", "json"]).await?.exits(&[3])?;
        expect("values that verify should have found", late, found.number("/values/failed")?)?;
        self.story.say(format_args!(
            "{late} values fail, exit code 3: without a proof they would have been lost with the old key."
        ));
        let last = self.typed("run", &self.keys(&new), &["--output", "json"]).await?.exits(&[0])?;
        expect("values that the last run should have re-keyed", late, last.number("/values/rekeyed")?)?;
        self.story.say(format_args!("{late} values re-keyed, the others left as they are."));

        self.story.act("The proof");
        let proof = self.typed("verify", &verify, &["--output", "json"]).await?.exits(&[0])?;
        let (rows, values) = (plane.rows(), plane.values());
        expect("values that verify should have opened", values, proof.number("/values/opened")?)?;
        expect("cells that verify should have seen", 2 * rows, proof.number("/values/total")?)?;
        self.story.say(format_args!(
            "{} of {} values open under the new key, and no other key was tried.",
            commas(values),
            commas(values)
        ));
        let audit = plane.audit(&self.job().await?).await?.holds()?;
        expect("values under the old key", 0, audit.old)?;
        expect("values under the new key", values, audit.new)?;
        self.story.say(format_args!(
            "The ledger agrees, cell by cell: {} plaintexts and {} NULLs.",
            commas(audit.new),
            commas(audit.empty)
        ));
        Ok((rows, values))
    }

    fn afterwards(&self) {
        let story = &self.story;
        story.aside(format_args!(
            "\nNot shown here: the fence that refuses late writers in the database (reseal fence enforce), the last run\n\
             behind it, and the end of the old key (reseal retire); a remote KMS and its quota, Postgres, several\n\
             machines, backups and replicas."
        ));
        if self.folder.is_kept() {
            let path = quote(&self.folder.path.to_string_lossy());
            let new = &self.new;
            story.aside(format_args!(
                "\nEverything is in {path}. To look around:\n\n   \
                 cd {path} && export DATABASE_URL=sqlite://{DATABASE}\n   \
                 reseal status\n   \
                 reseal verify --new {new} --format {}",
                self.format
            ));
        }
        let (new, flag) = match self.format {
            Format::V1 => ("static:env:NEW_SECRETS_ENCRYPTION_KEY", " --format v1"),
            Format::V2 => ("aws-kms:alias/tenants", ""),
            Format::V3 => ("aws-kms:alias/tenants", " --format v3"),
        };
        let keys = format!("--old static:env:SECRETS_ENCRYPTION_KEY --new {new}{flag}");
        story.aside(format_args!(
            "\nOn a real table, with DATABASE_URL set:\n\n   \
             reseal init\n   \
             reseal plan {keys}\n   \
             reseal run {keys}\n   \
             reseal verify --new {new}{flag}"
        ));
    }

    /// The flags that name the keys.
    fn keys<'k>(&self, new: &'k str) -> [&'k str; 6] {
        let format = match self.format {
            Format::V1 => "v1",
            Format::V2 => "v2",
            Format::V3 => "v3",
        };
        ["--old", "static:file:old.key", "--new", new, "--format", format]
    }

    /// Shows a command without its `unshown` words, and runs it with them.
    async fn typed(
        &self,
        command: &str,
        words: &[&str],
        unshown: &[&str],
    ) -> Result<super::program::Ended, Fault> {
        let words = [&[command], words].concat();
        self.story.typed(&words);
        self.program.run(&[&words[..], unshown].concat()).await
    }

    /// Shows how far a run is until it has ended, or until `reached` says so of the rows read and of all rows.
    async fn follow(&self, running: &mut Running, reached: impl Fn(i64, i64) -> bool) -> Result<bool, Fault> {
        let bar = self.story.bar();
        let reached = loop {
            sleep(POLL).await;
            if running.has_ended()? {
                break false;
            }
            let Some((read, all)) = self.progress().await? else { continue };
            bar.set_length(u64::try_from(all).unwrap_or_default());
            bar.set_position(u64::try_from(read).unwrap_or_default());
            if reached(read, all) {
                break true;
            }
        };
        bar.finish_and_clear();
        Ok(reached)
    }

    /// Of the latest run: the rows that its first sweep has read, and those that there were at its start.
    async fn progress(&self) -> Result<Option<(i64, i64)>, Fault> {
        let Some(run) = self.store.latest_run(TABLE).await? else { return Ok(None) };
        let tally = self.store.tally(&run.run_id, Some(1)).await?;
        Ok(Some((tally.scanned, run.row_count)))
    }

    /// Both keys, and what seals under the new one; as a reader of the table has them.
    async fn job(&self) -> Result<Job, Fault> {
        let file = |name| self.folder.path.join(name);
        let choice = KeyChoice {
            old: vec![KeySpec::Static(StaticSource::File(file(OLD_KEY)))],
            new: match self.format {
                Format::V1 => KeySpec::Static(StaticSource::File(file(NEW_KEY))),
                Format::V2 | Format::V3 => KeySpec::Kms(KmsSpec::Local(file(KEYRING))),
            },
            format: self.format,
            scope: DataKeyScope::Row,
            new_data_key: false,
            clear_text: ClearText::Quarantine,
        };
        let name = TargetName {
            logical: None,
            schema: None,
            table: TABLE.to_owned(),
            key_column: "org_id".to_owned(),
            columns: COLUMNS.map(str::to_owned).to_vec(),
        };
        let target = connect::target(self.store.as_ref(), &name).await?;
        let store = Arc::clone(&self.store);
        Ok(rekey::prepare(store, target, &choice, Options::default(), Intent::Look).await?)
    }
}

fn expect(what: &str, wanted: i64, found: i64) -> Result<(), Fault> {
    if wanted == found {
        return Ok(());
    }
    Err(Fault::failed(format!("{what}: {}, and it was {}", commas(wanted), commas(found))))
}
