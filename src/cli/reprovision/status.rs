//! `reprovision status`: where the tenants of the last run are, what of the old is alive, and what is left at the providers.

use clap::Command;
use reseal::{
    providers::{fly::Fly, neon::Neon},
    reprovision::{
        Manner,
        orphans::{Leftovers, Search},
    },
    store::{ReprovisionRow, Store},
};
use serde_json::{Value, json};

use super::{
    asked, ending, fault, leftovers,
    tally::{Tally, tenants},
    works,
};
use crate::cli::{
    Answer, Call, Exit, Fault, args, connect, meant,
    rotation::{
        self, JOURNAL,
        estate::{self, Journal},
    },
    stdio::shown,
};

pub(super) fn command() -> Command {
    let about = "Say where the tenants of the last run are, and look for what is left over; changes nothing";
    let groups = [args::DATABASE, JOURNAL, args::NAME, args::COLUMNS, args::OUTPUT];
    args::with_settings(Command::new("status").about(about), &groups)
        .arg(asked::switch("no-providers", "Look at the journal alone, and not for orphans"))
        .after_help(
            "Exit 3 while anything is left: a tenant that is not at its end, an orphan, an end that is not proven; and \
             when the providers could not be looked at.\n\n\
             Example:\n  reseal reprovision status --output json",
        )
}

/// What was found at the providers, or why nobody looked.
enum Look {
    Found(Leftovers),
    Skipped(String),
    Failed(Fault),
}

pub(in crate::cli) async fn status(call: &Call) -> Result<Answer, Fault> {
    let journal = rotation::journal(call).await?;
    let target = meant::target_name(call)?;
    let runs = journal.store.reprovisions(Some(target.logical())).await?;
    let Some(row) = runs.first() else { return Ok(no_run(call, target.logical())) };
    let tally = Tally::of(journal.store.as_ref(), &row.run_id).await?;
    let look = look(call, &journal).await?;
    answer(call, journal.store.as_ref(), row, &tally, look).await
}

/// Where nothing was begun, nothing can be left over.
fn no_run(call: &Call, target: &str) -> Answer {
    let human = format!("{target}: no re-provisioning yet.\n");
    let json = json!({"command": call.name, "target": target, "run": null});
    Answer::Report { exit: Exit::Done, human, json, hints: Vec::new() }
}

async fn look(call: &Call, journal: &Journal) -> Result<Look, Fault> {
    if call.args.get_flag("no-providers") {
        return Ok(Look::Skipped("as it was asked".to_owned()));
    }
    let (fly, neon) = match works::providers(call)? {
        (Some(fly), Some(neon)) => (fly, neon),
        (None, _) => return Ok(Look::Skipped("RESEAL_FLY_TOKEN is not set".to_owned())),
        (_, None) => return Ok(Look::Skipped("RESEAL_NEON_TOKEN is not set".to_owned())),
    };
    // What the journal knows is said though these are in trouble: it is then that it is wanted.
    Ok(match search(call, journal, &fly, &neon).await {
        Ok(Some(found)) => Look::Found(found),
        Ok(None) => Look::Skipped("no database with the tenants' table is named".to_owned()),
        Err(fault) => Look::Failed(fault),
    })
}

/// What is left at the providers; `None` where no table of tenants is named.
async fn search(call: &Call, journal: &Journal, fly: &Fly, neon: &Neon) -> Result<Option<Leftovers>, Fault> {
    let Some(table) = estate::table(call, journal).await? else { return Ok(None) };
    let target = connect::target_to_read(table.store.as_ref(), &table.name).await?;
    let search = Search {
        fly,
        neon,
        store: table.store.as_ref(),
        target: &target,
        columns: &works::columns(call),
        journal: journal.store.as_ref(),
        manner: &Manner::default(),
    };
    search.orphans().await.map(Some).map_err(|error| fault(call, error))
}

async fn answer(
    call: &Call,
    journal: &dyn Store,
    row: &ReprovisionRow,
    tally: &Tally,
    look: Look,
) -> Result<Answer, Fault> {
    let open = row.ended_ms.is_none();
    let mut hints = if open && !row.held { vec![go_on(call, tally)] } else { Vec::new() };
    let mut human = in_words(row, tally, journal.now_ms().await?);
    let mut json = json!({"command": call.name, "target": row.target, "run": document(row, tally)});
    let mut not_looked = |why: &str| {
        human += &format!("Orphans: not looked for: {}.\n", shown(why));
        json["orphans_not_looked_for"] = json!(why);
    };
    let needs_attention = match look {
        Look::Found(found) => {
            human += &leftovers::in_words(&found);
            let (orphans, retired) = leftovers::json(&found);
            (json["orphans"], json["retired_branches"]) = (orphans, retired);
            hints.extend(leftovers::removal(&found));
            !found.orphans.is_empty()
        }
        Look::Skipped(why) => {
            not_looked(&why);
            false
        }
        Look::Failed(fault) => {
            let (why, more) = fault.into_parts();
            not_looked(&why);
            hints.extend(more);
            hints.push(format!(
                "the journal alone: {} --no-providers",
                asked::again(call, "reprovision status")
            ));
            true
        }
    };
    let exit = if open || needs_attention { Exit::Attention } else { Exit::Done };
    Ok(Answer::Report { exit, human, json, hints })
}

fn go_on(call: &Call, tally: &Tally) -> String {
    let mut line = asked::go_on(call);
    if call.settings.value("new").is_none() {
        line += " --new KEY";
    }
    match tally.parked.is_empty() {
        true => line,
        false => format!("once the cause is mended: {line}"),
    }
}

fn in_words(row: &ReprovisionRow, tally: &Tally, now_ms: i64) -> String {
    let mut text = format!(
        "{}: {} of {} at their end. Run {}, {}.\n",
        row.target,
        tally.ended(),
        tenants(usize::try_from(tally.total()).unwrap_or(usize::MAX)),
        row.run_id,
        ending::since(row.begun_ms, row.ended_ms)
    );
    if let Some(holder) = row.holder.as_ref().filter(|_| row.held) {
        text += &format!("  held by {}\n", shown(holder));
    }
    text += &tally.in_words();
    text += &tally.down.in_words(now_ms);
    text += &match tally.alive.split_first() {
        None => "Old credentials: every known one was seen to be refused.\n".to_owned(),
        Some((first, _)) => format!(
            "Old credentials: those of {} were not seen to be refused yet, {} first.\n",
            tenants(tally.alive.len()),
            shown(first)
        ),
    };
    if row.ended_ms.is_none() && tally.left() == 0 {
        text += "Every tenant is at its end; what is left is to prove it.\n";
    }
    text + &ending::strangers(&tally.strangers)
}

fn document(row: &ReprovisionRow, tally: &Tally) -> Value {
    let options: Value = serde_json::from_str(&row.options).unwrap_or_default();
    let certificate: Option<Value> =
        row.certificate.as_ref().and_then(|text| serde_json::from_str(text).ok());
    json!({
        "run": row.run_id,
        "open": row.ended_ms.is_none(),
        "asked": options["asked"],
        "key": options["key"],
        "plan": row.plan,
        "holder": row.holder.as_ref().filter(|_| row.held),
        "begun": crate::cli::stdio::time(row.begun_ms),
        "ended": row.ended_ms.map(crate::cli::stdio::time),
        "tenants": tally.states_json(),
        "phases": tally.phases_json(),
        "parked": tally.parked_json(),
        "downtime": tally.down.json(),
        "old_credentials_alive": {"tenants": tally.alive.len(), "first": tally.alive.first()},
        "roles_shut_out": tally.strangers,
        "certificate": certificate,
    })
}
