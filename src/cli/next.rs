//! What to type next on the way from a finished run to the end of the old key.

use reseal::{
    rekey::{KeyUse, Next, Standing, key_uses, next_step},
    store::{DataKeyState, Store},
};

use super::{Call, Fault};

/// The next step, as a line to type. A run knows its keys by their ids, not where the operator keeps them: what was not
/// given here is left as `NEW-KEY` and `OLD-KEY`.
pub(super) async fn hints(call: &Call, store: &dyn Store, standing: &Standing) -> Result<Vec<String>, Fault> {
    let target = &standing.target.name;
    let uses = key_uses(store).await?;
    let in_state = |state: DataKeyState| {
        let of_target = uses.iter().filter(move |key_use| key_use.state == state);
        of_target.filter(|key_use| key_use.targets.contains(target)).collect::<Vec<_>>()
    };
    let (draining, retired) = (in_state(DataKeyState::Draining), in_state(DataKeyState::Retired));
    let line = |command: &str| {
        let line = call.again_on(command, &standing.target);
        if line.contains(" --new ") {
            line
        } else {
            format!("{line} --format {} --new NEW-KEY", standing.keys.format)
        }
    };
    let run = || {
        let line = line("run");
        if line.contains(" --old ") { line } else { line + " --old OLD-KEY" }
    };
    Ok(match next_step(standing, draining.len(), retired.len()) {
        Next::Nothing => Vec::new(),
        Next::Run if standing.run.state.is_open() => {
            vec![format!("to go on, with the keys above: {}", run())]
        }
        Next::Run => {
            vec![format!("once the cause is mended, with the keys above: {}", run())]
        }
        Next::LastSweep => vec![format!("the last sweep, behind the fence: {}", run())],
        Next::Again => {
            vec![format!("values failed the latest verify; with every key that they may be under: {}", run())]
        }
        Next::Quarantine => vec![call.again("quarantine list")],
        Next::Fence => vec![line("fence enforce"), line("verify")],
        Next::Verify => vec![line("verify")],
        Next::Retire => draining.iter().map(|key| format!("{} {}", line("retire"), spec(key))).collect(),
        Next::Destroy => retired
            .iter()
            .map(|key| format!("after the soak: {} {}", call.again("destroy"), spec(key)))
            .collect(),
    })
}

/// How a command takes the key, as far as its name tells.
fn spec(key: &KeyUse) -> String {
    match key.key.as_str() {
        arn if arn.starts_with("arn:") => format!("aws-kms:{arn}"),
        data if data.starts_with("data-key:") => data.to_owned(),
        local if local.starts_with("local-kms:") => "local-kms:FILE".to_owned(),
        name => format!("OLD-KEY  ({name})"),
    }
}
