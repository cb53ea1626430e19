//! `rotate SECRET`: begins a rotation, and goes as far as it can.

use clap::{Arg, ArgAction, Command};
use reseal::{
    journal::PlanDigest,
    rekey::plan::NotADigest,
    rotation::{
        Asked, Rotation, RotationError, SecretName, open_rotation,
        recipe::{Action, Recipe, Rollout, Step, Strategy},
        steps,
    },
};
use serde_json::json;

use super::{Person, Screen, Session, accepted, drive, fault, operator, secret, terminal};
use crate::{
    cli::{Answer, Call, Exit, Fault, args, signals::Signals, stdio},
    config::quote,
};

pub(super) fn arguments(command: Command) -> Command {
    command.arg(super::secret_arg().required(true)).args(ways()).args([
        super::accept_arg(),
        super::value_file_arg(),
        args::flag("plan"),
        switch("yes", "Begin without asking"),
        Arg::new("confirm")
            .long("confirm")
            .value_name("SECRET")
            .help("--emergency without a terminal: the secret's name once more"),
    ])
}

/// The ways in which a rotation can be asked for.
pub(super) fn ways() -> [Arg; 4] {
    [
        Arg::new("strategy").long("strategy").value_name("NAME").help("Which way, where there are several"),
        switch("stage", "Write it, and let the next deploy by others bring it to the machines"),
        switch("deploy", "Restart the control plane's machines with it").conflicts_with("stage"),
        switch("emergency", "Revoke the old one first, whatever stops"),
    ]
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// The way that the arguments ask for.
pub(super) fn asked(call: &Call) -> Asked {
    Asked {
        emergency: call.args.get_flag("emergency"),
        stage: match (call.args.get_flag("stage"), call.args.get_flag("deploy")) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
        ..Asked::default()
    }
}

pub(in crate::cli) async fn begin(call: &Call) -> Result<Answer, Fault> {
    let Some(secret) = secret(call)? else { return Err(Fault::usage("missing: SECRET")) };
    let recipe = secret.recipe();
    if recipe.strategies.is_empty() {
        return Ok(automatic(call, recipe));
    }
    let strategy = strategy(call, recipe)?;
    let asked = Asked { accept_unverified: accepted(call)?, ..asked(call) };
    require_plan(call)?;
    let steps = steps(strategy, &asked);
    let mut signals = Signals::install()?;
    let screen = Screen::new();
    let prepared = async {
        let journal = super::journal(call).await?;
        if let Some(open) =
            open_rotation(journal.store.as_ref(), Some(secret)).await.map_err(|error| fault(call, error))?
        {
            return Err(Fault::refused(format!("{secret} has an open rotation, {}", open.rotation_id))
                .hint(super::line(call, "resume", &open.secret))
                .hint(super::line(call, "abort", &open.secret)));
        }
        let session = Session::open(call, journal, secret, &steps).await?;
        agree(call, recipe, strategy, &asked, &steps).await?;
        Ok((session, operator::given(call)?))
    };
    let (session, given) = tokio::select! {
        prepared = prepared => prepared?,
        () = signals.next() => {
            return Err(Fault::resumable("stopped before anything was begun").hint(again(call, secret)));
        }
    };
    let (person, tell) = (Person::new(given, &screen), |progress: &_| screen.show(progress));
    let tools = session.tools(&person, &tell);
    let opened = Rotation::open(tools, secret, strategy, asked).await;
    let mut rotation = opened.map_err(|error: RotationError| fault(call, error))?;
    drive::drive(call, &session, secret, strategy.name, &mut rotation, &mut signals, &screen).await
}

/// Holds the rotation to the plan that was approved, if one was.
fn require_plan(call: &Call) -> Result<(), Fault> {
    let Some(text) = call.settings.text("plan") else { return Ok(()) };
    let approved: PlanDigest =
        text.parse().map_err(|error: NotADigest| Fault::usage(format!("--plan: {error}")))?;
    super::plan::planned(call)?.require(&approved).map_err(|error| fault(call, error))
}

/// The same command, but for what answers its questions.
fn again(call: &Call, secret: SecretName) -> String {
    let mut line = format!("{} {secret}{}", call.again("rotate"), ways_again(call));
    for name in ["accept-unverified", "value-file"] {
        for value in call.args.get_many::<String>(name).into_iter().flatten() {
            line += &format!(" --{name} {}", quote(value));
        }
    }
    line
}

/// The way that was asked for, as it may be typed again.
pub(super) fn ways_again(call: &Call) -> String {
    let strategy = call.args.get_one::<String>("strategy");
    let strategy = strategy.map(|name| format!(" --strategy {}", quote(name)));
    let switches = ["stage", "deploy", "emergency"].into_iter().filter(|name| call.args.get_flag(name));
    strategy.into_iter().chain(switches.map(|name| format!(" --{name}"))).collect()
}

fn automatic(call: &Call, recipe: &Recipe) -> Answer {
    let human = format!("{} is automatic: {}\n", recipe.secret, recipe.half_done);
    let json = json!({"command": call.name, "secret": recipe.secret.as_str(), "outcome": "automatic"});
    Answer::Report { exit: Exit::Done, human, json, hints: Vec::new() }
}

fn strategy(call: &Call, recipe: &'static Recipe) -> Result<&'static Strategy, Fault> {
    let name = call.args.get_one::<String>("strategy").map(String::as_str);
    recipe.strategy(name).ok_or_else(|| {
        let fault = Fault::usage(format!("{} has no strategy of this name", recipe.secret));
        recipe.strategies.iter().fold(fault, |fault, strategy| {
            fault.hint(format!("--strategy {}: {}", strategy.name, strategy.when))
        })
    })
}

/// Shows what is to be done, and has somebody agree.
async fn agree(
    call: &Call,
    recipe: &Recipe,
    strategy: &Strategy,
    asked: &Asked,
    steps: &[Step],
) -> Result<(), Fault> {
    let secret = recipe.secret;
    let is_told = call.args.get_flag("yes");
    if terminal::is_there() && !is_told {
        show(recipe, strategy, asked, steps);
    }
    if asked.emergency {
        return agree_to_outage(call, recipe, steps).await;
    }
    if is_told {
        return Ok(());
    }
    if !terminal::is_there() {
        return Err(Fault::refused("nobody is there to be asked whether to begin")
            .hint(again(call, secret) + " --yes"));
    }
    match terminal::agrees(&format!("Rotate {secret} now?")).await {
        Ok(true) => Ok(()),
        _ => Err(Fault::refused(format!("{secret} is not rotated: nobody said yes"))),
    }
}

/// The name typed back, or given with the command where nobody can type.
async fn agree_to_outage(call: &Call, recipe: &Recipe, steps: &[Step]) -> Result<(), Fault> {
    let secret: SecretName = recipe.secret;
    let what = match steps.iter().any(|step| matches!(step.action, Action::Revoke(_))) {
        true => format!("The old {secret} is revoked before the new one is in place."),
        false => format!("The steps for {secret} are the same in an emergency."),
    };
    stdio::note(format_args!("{}", stdio::wrapped(&format!("{what} {}", recipe.blast_radius), 0).trim_end()));
    let confirmed = match call.args.get_one::<String>("confirm") {
        Some(name) => name == secret.as_str(),
        None if terminal::is_there() => {
            let typed = terminal::ask(&format!("Type {secret} to go on: ")).await.ok().flatten();
            typed.is_some_and(|typed| typed.expose().trim() == secret.as_str())
        }
        None => {
            return Err(Fault::refused("an emergency is confirmed by the secret's name")
                .hint(format!("{} --confirm {secret}", again(call, secret))));
        }
    };
    if confirmed {
        Ok(())
    } else {
        Err(Fault::refused(format!("{secret} is not rotated: that is not its name")))
    }
}

fn show(recipe: &Recipe, strategy: &Strategy, asked: &Asked, steps: &[Step]) {
    let mut text = format!("{}, strategy {}, {} steps:\n", recipe.secret, strategy.name, steps.len());
    for (number, step) in steps.iter().enumerate() {
        text += &stdio::wrapped(&format!("{:>2}. {}: {}", number + 1, step.name, step.text), 2);
    }
    text += &stdio::wrapped(&format!("What stops if it goes wrong: {}", recipe.blast_radius), 0);
    text += &stdio::wrapped(&format!("Half done: {}", recipe.half_done), 0);
    if asked.rollout(recipe) == Rollout::Stage {
        text += "It waits for the next deploy to bring the new value to the machines; --deploy does it at once.\n";
    }
    stdio::note(format_args!("{}", text.trim_end()));
}
