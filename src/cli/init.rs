//! `init`: reseal's own tables.

use std::{path::Path, sync::Arc};

use clap::Command;
use reseal::{
    secret::SecretText,
    store::{Store, StoreError, sqlite::Sqlite},
};
use serde_json::json;

use super::{Answer, Call, Exit, Fault, args, audit, connect};
use crate::config::{SQLITE, quote};

pub(super) fn command() -> Command {
    let about = "Create or upgrade reseal's own tables: in the database, beside the ones it re-keys, and in the journal's";
    let groups = [args::DATABASE, &["state-url"], args::OUTPUT];
    args::with_settings(Command::new("init").about(about), &groups).after_help(
        "A SQLite file that --state-url names is made where it is missing.\n\n\
         Examples:\n  DATABASE_URL=postgres://owner:…@host/control reseal init\n  \
         reseal init --state-url sqlite://state.db",
    )
}

pub(super) async fn run(call: &Call) -> Result<Answer, Fault> {
    let journal = match connect::url(call, "state-url")? {
        Some(url) => Some(journal(call, &url).await?),
        None => None,
    };
    let database = match (connect::url(call, "database-url")?, &journal) {
        (None, Some(_)) => None,
        _ => Some(connect::store(call, 1).await?),
    };
    let (mut human, mut json) = (String::new(), json!({"command": "init"}));
    let mut last = None;
    for (store, key) in [(database, "applied"), (journal, "applied_to_journal")] {
        let Some(store) = store else { continue };
        let applied = store.migrate().await?;
        human += &match applied.as_slice() {
            [] => "reseal's own tables are up to date.\n".to_owned(),
            applied => format!("Applied: {}.\n", applied.join(", ")),
        };
        json[key] = json!(applied);
        last.get_or_insert((store, if key == "applied" { "plan" } else { "rotate status" }));
    }
    let Some((store, next)) = last else { return Ok(Answer::Nothing) };
    let answer = Answer::Report { exit: Exit::Done, human, json, hints: vec![call.again(next)] };
    audit::with_head(store.as_ref(), answer).await
}

/// The journal's database. A SQLite file is made where there is none: nothing else is in it.
async fn journal(call: &Call, url: &SecretText) -> Result<Arc<dyn Store>, Fault> {
    match url.expose().strip_prefix(SQLITE).map(Path::new) {
        Some(path) if !path.exists() => {
            let made = Sqlite::create(path).await.map_err(|error| match (&error, path.parent()) {
                (StoreError::Missing { .. }, Some(folder)) => {
                    Fault::from(error).hint(format!("mkdir -p {}", quote(&folder.to_string_lossy())))
                }
                _ => error.into(),
            })?;
            Ok(Arc::new(made))
        }
        _ => connect::open(call, url, 1).await,
    }
}
