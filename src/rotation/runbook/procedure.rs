//! One secret's chapter.

use crate::{
    rotation::{
        Asked, Plan,
        recipe::{Action, InPlace, Recipe, Reprovision, Rollout, Step, Strategy, Undo},
    },
    time::about,
};

pub(super) fn procedure(recipe: &Recipe) -> String {
    let mut text = format!("## {}\n\n{}\n\n", recipe.secret, recipe.purpose);
    let mut say = |label: &str, what: &str| text += &format!("- **{label}**: {what}\n");
    say("Kept in", &recipe.kept.join(", "));
    if let Some(coupled) = recipe.coupled {
        say("Coupled", coupled);
    }
    say("When it stops working", recipe.blast_radius);
    say("Half done", recipe.half_done);
    if let Some(line) = recipe.watch {
        say("Log line to watch afterwards", &format!("`{line}`"));
    }
    let contacts = recipe.contacts.iter().map(|contact| format!("{}: {}", contact.who, contact.how));
    say("Emergency contact", &contacts.collect::<Vec<_>>().join("; "));
    if recipe.rollout == Rollout::Stage {
        say(
            "Staged",
            "the value waits for the next deploy, and the rotation for it; `--deploy` restarts the machines at once. A machine \
             that starts in between has the new value early: it works by then, and the old one still does",
        );
    }
    text.extend(recipe.strategies.iter().map(|strategy| described(recipe, strategy)));
    if !recipe.by_hand.is_empty() {
        text += &format!("\n### {} by hand, without reseal\n\n```sh\n{}```\n", recipe.secret, recipe.by_hand);
    }
    text
}

fn described(recipe: &Recipe, strategy: &Strategy) -> String {
    let secret = recipe.secret;
    let is_usual = recipe.strategies.first().is_some_and(|usual| usual.name == strategy.name);
    let option = if is_usual { String::new() } else { format!(" --strategy {}", strategy.name) };
    let Ok(plan) = Plan::of(secret, Some(strategy.name), &Asked::default()) else { return String::new() };
    let steps: String = plan.steps.iter().enumerate().map(|(number, step)| one(number + 1, step)).collect();
    format!(
        "\n### {secret}: {}\n\n{} Old and new value: {}.\n\n    reseal rotate {secret}{option}\n\n{steps}\n{}{}{}",
        strategy.name,
        strategy.when,
        strategy.overlap.in_words(),
        length(&plan),
        proof(&plan),
        emergency(recipe, strategy),
    )
}

fn one(number: usize, step: &Step) -> String {
    let mut notes = vec![match step.seconds {
        0 => String::new(),
        seconds => format!("about {}", about(seconds)),
    }];
    if step.by.as_str() != "-" {
        notes.insert(0, format!("by {}", step.by.as_str()));
    }
    if step.undo() == Undo::Never {
        notes.push("**irreversible**".to_owned());
    }
    notes.retain(|note| !note.is_empty());
    let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
    format!("{number}. `{}`: {}{notes}\n", step.name, step.text)
}

fn length(plan: &Plan) -> String {
    let waits: String = plan.waits().iter().map(|wait| format!(", besides {wait}")).collect();
    let back = match plan.steps.get(plan.cut_over) {
        Some(step) => format!("From step {} (`{}`) on there is no way back.", plan.cut_over + 1, step.name),
        None => "Every step can be undone.".to_owned(),
    };
    format!("About {} in all{waits}. {back}", about(plan.seconds()))
}

/// Which steps prove that it worked.
fn proof(plan: &Plan) -> String {
    let numbers = |is: fn(&Action) -> bool| {
        let steps = plan.steps.iter().enumerate().filter(|(_, step)| is(&step.action));
        let numbers: Vec<_> = steps.map(|(number, _)| (number + 1).to_string()).collect();
        let word = if numbers.len() == 1 { "step" } else { "steps" };
        (!numbers.is_empty()).then(|| format!("{word} {}", numbers.join(", ")))
    };
    let new = numbers(|action| {
        matches!(
            action,
            Action::Prove(_)
                | Action::Exercise(_)
                | Action::InPlace(InPlace::Verify)
                | Action::Reprovision(Reprovision::Verify)
        )
    });
    let dead = numbers(|action| matches!(action, Action::AwaitDeath(_)));
    let new = new.map(|steps| format!(" Verified by {steps}."));
    let dead = dead.map(|steps| format!(" The old value is confirmed dead by {steps}."));
    let text: String = new.into_iter().chain(dead).collect();
    text + "\n"
}

fn emergency(recipe: &Recipe, strategy: &Strategy) -> String {
    let asked = Asked { emergency: true, ..Asked::default() };
    let Ok(plan) = Plan::of(recipe.secret, Some(strategy.name), &asked) else { return String::new() };
    let is_reordered = strategy.steps.iter().zip(&plan.steps).any(|(usual, now)| usual.name != now.name);
    let seconds: u32 = plan.outage().iter().map(|step| step.seconds).sum();
    let outage = if plan.outage().is_empty() {
        String::new()
    } else {
        format!(" Down for about {}: {}", about(seconds), recipe.blast_radius)
    };
    let renews = strategy.steps.iter().any(|step| step.action == Action::Reprovision(Reprovision::Run));
    if renews {
        return format!(
            "\nWith `--emergency` each tenant's old credentials die before it has new ones.{outage}\n"
        );
    }
    match (is_reordered, recipe.rollout) {
        (true, _) => format!(
            "\nWith `--emergency` the old value is revoked first, before it is known that the new one works.{outage}\n"
        ),
        (false, Rollout::Stage) => {
            "\nWith `--emergency` the steps are the same, and machines restart at once.\n".to_owned()
        }
        (false, Rollout::Deploy) => format!("\nWith `--emergency` the steps are the same.{outage}\n"),
    }
}
