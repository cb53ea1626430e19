//! `init`: reseal's own tables.

use clap::Command;
use serde_json::json;

use super::{Answer, Call, Exit, Fault, args, audit, connect};

pub(super) fn command() -> Command {
    let about = "Create or upgrade reseal's own tables, beside the ones it re-keys";
    args::with_settings(Command::new("init").about(about), &[args::DATABASE, args::OUTPUT])
        .after_help("Example:\n  DATABASE_URL=postgres://owner:…@host/control reseal init")
}

pub(super) async fn run(call: &Call) -> Result<Answer, Fault> {
    let store = connect::store(call, 1).await?;
    let applied = store.migrate().await?;
    let human = match applied.as_slice() {
        [] => "reseal's own tables are up to date.\n".to_owned(),
        applied => format!("Applied: {}.\n", applied.join(", ")),
    };
    let json = json!({"command": "init", "applied": applied});
    let answer = Answer::Report { exit: Exit::Done, human, json, hints: vec![call.again("plan")] };
    audit::with_head(store.as_ref(), answer).await
}
