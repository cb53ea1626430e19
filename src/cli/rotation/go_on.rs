//! `rotate resume` and `rotate abort`: takes up a rotation that was interrupted or waits.

use std::time::Duration;

use clap::{Arg, ArgAction, Command};
use reseal::{
    rotation::{Added, Asked, Rotation, RotationError, SecretName, Tools, steps},
    store::{RotationRow, Store},
};
use tokio::time::sleep;

use super::{Person, Screen, Session, accepted, drive, fault, line, operator, secret, with_journal};
use crate::cli::{Answer, Call, Fault, signals::Signals, stdio};

/// How often a dead holder's lease is looked at.
const LOOK: Duration = Duration::from_millis(250);

pub(super) fn resume_command() -> Command {
    let deploy = Arg::new("deploy")
        .long("deploy")
        .action(ArgAction::SetTrue)
        .help("Restart the control plane's machines now, instead of waiting for a deploy by others");
    let command = Command::new("resume").about("Go on with a rotation that waits or was interrupted").args([
        super::secret_arg(),
        deploy,
        super::accept_arg(),
        super::value_file_arg(),
    ]);
    with_journal(command)
        .after_help("Examples:\n  reseal rotate resume\n  reseal rotate resume RESEND_API_KEY --deploy")
}

pub(super) fn abort_command() -> Command {
    let command = Command::new("abort")
        .about("Take back what a rotation did, while that can be done")
        .arg(super::secret_arg());
    with_journal(command).after_help("Example:\n  reseal rotate abort RESEND_API_KEY")
}

pub(in crate::cli) async fn resume(call: &Call) -> Result<Answer, Fault> {
    let added = Added { deploy: call.args.get_flag("deploy"), accept_unverified: accepted(call)? };
    go_on(call, Way::On(added)).await
}

pub(in crate::cli) async fn abort(call: &Call) -> Result<Answer, Fault> {
    go_on(call, Way::Back).await
}

enum Way {
    On(Added),
    Back,
}

async fn go_on(call: &Call, way: Way) -> Result<Answer, Fault> {
    let named = secret(call)?;
    let given = match way {
        Way::On(_) => operator::given(call)?,
        Way::Back => None,
    };
    let mut signals = Signals::install()?;
    let prepared = async {
        let journal = super::journal(call).await?;
        let row = open_row(call, journal.store.as_ref(), named).await?;
        let corrupt = || Fault::failed(format!("the journal of rotation {} makes no sense", row.rotation_id));
        let secret: SecretName = row.secret.parse().map_err(|_| corrupt())?;
        let asked: Asked = serde_json::from_str(&row.options).map_err(|_| corrupt())?;
        let strategy = secret.recipe().strategy(Some(&row.strategy)).ok_or_else(corrupt)?;
        let session = Session::open(call, journal, secret, &steps(strategy, &asked)).await?;
        Ok::<_, Fault>((session, secret, row))
    };
    let (session, secret, row) = tokio::select! {
        prepared = prepared => prepared?,
        () = signals.next() => return Err(stopped(call, named)),
    };
    let screen = Screen::new();
    let (person, tell) = (Person::new(given, &screen), |progress: &_| screen.show(progress));
    let tools = session.tools(&person, &tell);
    let mut rotation = tokio::select! {
        rotation = claim(call, tools, &row) => rotation?,
        () = signals.next() => return Err(stopped(call, Some(secret))),
    };
    let turned = match way {
        Way::On(added) => go_forward(&mut rotation, added).await,
        Way::Back => rotation.abort().await,
    };
    if let Err(error) = turned {
        rotation.release().await.map_err(|error| fault(call, error))?;
        return Err(fault(call, error));
    }
    drive::drive(call, &session, secret, &row.strategy, &mut rotation, &mut signals, &screen).await
}

async fn go_forward(rotation: &mut Rotation<'_>, added: Added) -> Result<(), RotationError> {
    rotation.add(added).await?;
    rotation.unpark().await
}

fn stopped(call: &Call, secret: Option<SecretName>) -> Fault {
    let secret = secret.map_or("", SecretName::as_str);
    Fault::resumable("stopped before the rotation was taken up").hint(line(call, "resume", secret).trim_end())
}

/// The open rotation that is meant.
async fn open_row(call: &Call, store: &dyn Store, secret: Option<SecretName>) -> Result<RotationRow, Fault> {
    let rows = store.rotations(secret.map(SecretName::as_str)).await?;
    let mut open = rows.into_iter().filter(|row| row.ended_ms.is_none());
    let none = || {
        let what = secret.map_or_else(
            || "no rotation is open".to_owned(),
            |secret| format!("{secret} has no open rotation"),
        );
        Fault::refused(what).hint(call.again("rotate status"))
    };
    let first = open.next().ok_or_else(none)?;
    let others = open.map(|row| row.secret).collect::<Vec<_>>();
    if others.is_empty() {
        return Ok(first);
    }
    let command = call.name.trim_start_matches("rotate ");
    let fault = Fault::refused("more than one rotation is open: name the secret");
    Err([first.secret]
        .iter()
        .chain(&others)
        .fold(fault, |fault, secret| fault.hint(line(call, command, secret))))
}

/// Takes the lease. That of a process which died is waited for; one that is renewed is somebody's at work.
async fn claim<'a>(call: &Call, tools: Tools<'a>, row: &RotationRow) -> Result<Rotation<'a>, Fault> {
    if row.held {
        let by = row.holder.as_deref().unwrap_or("another process");
        stdio::note(format_args!("{by} holds the rotation: waiting up to 20 s, in case it died"));
        wait_for_death(tools.store, row).await?;
    }
    Rotation::resume(tools, row).await.map_err(|error| fault(call, error))
}

/// Returns when the lease is over or given back, or is seen to be renewed.
async fn wait_for_death(store: &dyn Store, row: &RotationRow) -> Result<(), Fault> {
    loop {
        sleep(LOOK).await;
        let rows = store.rotations(Some(&row.secret)).await?;
        let now = rows.into_iter().find(|now| now.rotation_id == row.rotation_id);
        if !now.is_some_and(|now| now.held && now.lease_ms == row.lease_ms) {
            return Ok(());
        }
    }
}
