//! `secrets list`.

use reseal::{
    rotation::{
        SecretName, Standing, StandingState,
        map::{OUTSIDE, Outside},
    },
    store::Store,
};
use serde_json::{Value, json};

use super::super::{
    Answer, Call, Exit, Fault, rotation,
    stdio::{shown, time, wrapped},
};

pub(crate) async fn run(call: &Call) -> Result<Answer, Fault> {
    let store = rotation::store(call).await?;
    let standings = standings(store.as_ref()).await?;
    let secrets = standings.iter().map(secret_in_words);
    let outside = OUTSIDE.iter().map(outside_in_words);
    let human = format!(
        "{}\nWithout a recipe:\n\n{}",
        secrets.collect::<Vec<_>>().join("\n"),
        outside.collect::<Vec<_>>().join("\n")
    );
    let json = json!({
        "command": "secrets list",
        "secrets": standings.iter().map(secret_json).collect::<Vec<_>>(),
        "outside": OUTSIDE.iter().map(outside_json).collect::<Vec<_>>(),
    });
    Ok(Answer::Report { exit: Exit::Done, human, json, hints: Vec::new() })
}

async fn standings(store: &dyn Store) -> Result<Vec<Standing>, Fault> {
    let now_ms = store.now_ms().await?;
    let mut standings = Vec::new();
    for secret in SecretName::ALL {
        let rotations = store.rotations(Some(secret.as_str())).await?;
        let credentials = store.credentials(Some(secret.as_str())).await?;
        standings.push(Standing::of(secret, &rotations, &credentials, now_ms));
    }
    Ok(standings)
}

fn secret_in_words(standing: &Standing) -> String {
    let recipe = standing.secret.recipe();
    let mut text = format!("{}: {}\n", standing.secret, state_in_words(&standing.state));
    let mut say = |line: &str| text += &wrapped(line, 2);
    say(recipe.purpose);
    say(&format!("kept in: {}", recipe.kept.join(", ")));
    if let Some(coupled) = recipe.coupled {
        say(&format!("coupled: {coupled}"));
    }
    match (age_in_words(standing), recipe.max_age_days) {
        (Some(age), _) => say(&age),
        (None, Some(most)) => say(&format!("age: not known (at most {most} days)")),
        (None, None) => {}
    }
    text
}

fn age_in_words(standing: &Standing) -> Option<String> {
    let (then, days) = standing.replaced_ms.zip(standing.age_days)?;
    let policy = match standing.secret.recipe().max_age_days {
        Some(most) if standing.is_over_age() => format!(", and may get {most}: rotate it"),
        Some(most) => format!(", and may get {most}"),
        None => String::new(),
    };
    Some(format!("rotated: {}; {days} days old{policy}", time(then)))
}

/// What is under way, in a line.
pub(super) fn state_in_words(state: &StandingState) -> String {
    let word = state.as_str();
    match state {
        StandingState::Rotating { step, .. } => format!("{word}, at {step}"),
        StandingState::Parked { step, waiting, until_ms } => {
            let until = until_ms.map(|until| format!(", until {}", time(until))).unwrap_or_default();
            format!("{word} at {step}, waits for {}{until}", shown(waiting))
        }
        _ => word.to_owned(),
    }
}

/// What is under way, as a document.
pub(super) fn state_json(state: &StandingState) -> Value {
    let (step, waiting, until) = match state {
        StandingState::Rotating { step, .. } => (Some(step), None, None),
        StandingState::Parked { step, waiting, until_ms } => (Some(step), Some(waiting), *until_ms),
        _ => (None, None, None),
    };
    json!({"state": state.as_str(), "step": step, "waiting": waiting, "until": until.map(time)})
}

fn secret_json(standing: &Standing) -> Value {
    let recipe = standing.secret.recipe();
    json!({
        "secret": standing.secret.as_str(),
        "purpose": recipe.purpose,
        "kept": recipe.kept,
        "coupled": recipe.coupled,
        "rotation": state_json(&standing.state),
        "rotated": standing.replaced_ms.map(time),
        "age_days": standing.age_days,
        "max_age_days": recipe.max_age_days,
        "over_age": standing.is_over_age(),
        "strategies": recipe.strategies.iter().map(|strategy| strategy.name).collect::<Vec<_>>(),
    })
}

fn outside_in_words(outside: &Outside) -> String {
    let mut text = format!("{}: {}\n", outside.name, outside.role.as_str());
    let mut say = |line: &str| text += &wrapped(line, 2);
    say(outside.purpose);
    say(&format!("kept in: {}", outside.kept));
    say(&format!("held by: {}", outside.holder));
    say(&format!("renewed: {}", outside.renewed));
    text
}

fn outside_json(outside: &Outside) -> Value {
    json!({
        "name": outside.name,
        "purpose": outside.purpose,
        "kept": outside.kept,
        "holder": outside.holder,
        "renewed": outside.renewed,
        "role": outside.role.as_str(),
    })
}
