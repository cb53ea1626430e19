//! `pause`, `resume` and `set`: orders to every process that works on the open run, from any machine.

use std::num::NonZero;

use clap::{Arg, Command};
use reseal::{
    rekey::{MOST_BATCH, MOST_WORKERS},
    store::{Orders, RowRate, RunRow, Setting, Store},
};
use serde_json::{Value, json};

use super::{Answer, Call, Exit, Fault, args, audit, connect, meant, stdio::time};

const SETTINGS: [&[&str]; 3] = [args::DATABASE, args::NAME, args::OUTPUT];

pub(super) fn commands() -> [Command; 3] {
    let pause = Command::new("pause").about("Let every worker of the open run finish its batch and wait");
    let resume = Command::new("resume").about("Let a paused run go on");
    let one = |name: &'static str, about: &'static str, value: &'static str, help: &'static str| {
        let value =
            Arg::new("value").value_name(value).required(true).help(help).allow_negative_numbers(true);
        args::with_settings(Command::new(name).about(about), &SETTINGS).arg(value)
    };
    let set = Command::new("set")
        .about("Change how the open run goes about its work, while it does")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([
            one("rate", "Rows a second, of each process", "N|off", "A number, or off for no limit"),
            one("batch", "Rows a batch, at most", "N", "A number from 1"),
            one("workers", "Workers in each process", "N", "A number from 1"),
        ])
        .after_help(
            "Reaches every process of the run within 2 s, and those that join later.\n\n\
             Examples:\n  reseal set rate 200\n  reseal set rate off\n  reseal set workers 4",
        );
    [
        args::with_settings(pause, &SETTINGS).after_help(
            "Reaches every process within 2 s. Nothing is lost, and the run stays open.\n\n\
             Example:\n  reseal pause",
        ),
        args::with_settings(resume, &SETTINGS).after_help("Example:\n  reseal resume"),
        set,
    ]
}

pub(super) async fn pause(call: &Call) -> Result<Answer, Fault> {
    let (store, run) = open_run(call).await?;
    let given = store.pause(&run).await?;
    answer(call, store.as_ref(), &run, if given { "is paused now" } else { "was paused already" }).await
}

pub(super) async fn resume(call: &Call) -> Result<Answer, Fault> {
    let (store, run) = open_run(call).await?;
    let given = store.resume(&run).await?;
    answer(call, store.as_ref(), &run, if given { "goes on" } else { "was not paused" }).await
}

pub(super) async fn set(call: &Call, name: &str) -> Result<Answer, Fault> {
    let setting = setting(name, call.args.get_one::<String>("value").expect("clap requires it"))?;
    let (store, run) = open_run(call).await?;
    if !store.set(&run, setting).await? {
        return Err(over(call, &store.run(&run.run_id).await?));
    }
    answer(call, store.as_ref(), &run, "hears of it within 2 s").await
}

/// What `value` means for the setting of this name.
fn setting(name: &str, value: &str) -> Result<Setting, Fault> {
    let number = |most: u32| {
        let number = value.parse().ok().filter(|number: &NonZero<u32>| number.get() <= most);
        number.ok_or_else(|| Fault::usage(format!("set {name} takes a whole number from 1 to {most}")))
    };
    match name {
        "rate" if value == "off" => Ok(Setting::Rate(RowRate::Unlimited)),
        "rate" => {
            let rate =
                number(u32::MAX).map_err(|fault| fault.hint("without a limit: reseal set rate off"))?;
            Ok(Setting::Rate(RowRate::PerSecond(rate)))
        }
        "batch" => Ok(Setting::Batch(number(MOST_BATCH)?)),
        _ => {
            let workers =
                number(MOST_WORKERS).map_err(|fault| fault.hint("to stop them all: reseal pause"))?;
            Ok(Setting::Workers(workers))
        }
    }
}

async fn open_run(call: &Call) -> Result<(std::sync::Arc<dyn Store>, RunRow), Fault> {
    let name = meant::target_name(call)?;
    let store = connect::migrated_store(call, 1).await?;
    match store.latest_run(name.logical()).await? {
        Some(run) if run.state.is_open() => Ok((store, run)),
        Some(run) => Err(over(call, &run)),
        None => Err(Fault::refused(format!("{} has no run", name.logical())).hint(call.again("plan"))),
    }
}

fn over(call: &Call, run: &RunRow) -> Fault {
    let ended = run.finished_ms.map(|at| format!(" since {}", time(at))).unwrap_or_default();
    Fault::refused(format!("run {} of {} is {}{ended}", run.run_id, run.target, run.state.as_str()))
        .hint(call.again("status"))
}

/// How the run stands now.
async fn answer(call: &Call, store: &dyn Store, run: &RunRow, what: &str) -> Result<Answer, Fault> {
    let run = store.run(&run.run_id).await?;
    let mut human = format!("{}: run {} {what}.\n", run.target, run.run_id);
    human += &in_words(&run.orders);
    let json = json!({
        "command": call.name,
        "target": run.target,
        "run": run.run_id,
        "state": run.state.as_str(),
        "orders": document(&run.orders),
    });
    let hints = match run.orders.paused {
        Some(_) => vec![call.again("resume")],
        None => vec![call.again("status") + " --watch"],
    };
    audit::with_head(store, Answer::Report { exit: Exit::Done, human, json, hints }).await
}

/// What was ordered, a line each.
pub(super) fn in_words(orders: &Orders) -> String {
    let mut lines = String::new();
    if let Some(paused) = &orders.paused {
        lines += &format!("  paused by {} since {}\n", paused.by, time(paused.since_ms));
    }
    match orders.rate {
        Some(RowRate::Unlimited) => lines += "  rate: no limit\n",
        Some(RowRate::PerSecond(rate)) => lines += &format!("  rate: {rate} rows/s in each process\n"),
        None => {}
    }
    if let Some(batch) = orders.batch {
        lines += &format!("  batch: {batch} rows\n");
    }
    if let Some(workers) = orders.workers {
        lines += &format!("  workers: {workers} in each process\n");
    }
    lines
}

/// The same as a document; `null` is what each process was started with.
pub(super) fn document(orders: &Orders) -> Value {
    json!({
        "paused": orders.paused.as_ref().map(|paused| json!({"by": paused.by, "since": time(paused.since_ms)})),
        "rate": orders.rate.map(|rate| rate.limit().map_or(json!("off"), |rate| json!(rate))),
        "batch": orders.batch,
        "workers": orders.workers,
    })
}
