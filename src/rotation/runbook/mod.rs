//! The runbook, in Markdown, from the recipes that run. Pure: the same for the same version of reseal.
//!
//! Kept as `docs/runbook.md`; a test says when that is stale.

mod incident;
mod procedure;

pub use incident::{INCIDENT, Stage, incident};

use super::{
    SecretName,
    map::{self, OUTSIDE, Role},
};

const INTRODUCTION: &str = "\
# Secret rotation: runbook

Where each secret is kept, what it is for, and the whole procedure of rotating it, so that a partial update doesn't silently break \
production.

This text is written by `reseal runbook` from the recipes that `reseal rotate` runs: what is read here is what is done. Names that can be \
set otherwise (`reseal config`) are given by their defaults: the control plane is the Fly app `molecule-cp` at \
<https://molecule-cp.fly.dev>, the repository `Molecule-AI/molecule-monorepo`, its workflow `publish-platform-image.yml`, the control \
plane's project on Neon `cool-sea-89357706`.

    reseal secrets list                        where each secret is kept, when it was rotated last, and what is under way
    reseal secrets check                       whether anything is off; exit 3 if so, fit for cron
    reseal rotate adopt SECRET                 before the first rotation: which credential is the old one, and its value
    reseal rotate plan SECRET                  every call, what authorises it, what is at stake; ends in a digest
    reseal rotate SECRET --plan DIGEST         does that and nothing else
    reseal rotate status                       where it is, and what it waits for
    reseal rotate resume SECRET                goes on, after a crash, a wait, or from another terminal
    reseal rotate abort SECRET                 turns back, as long as nothing irreversible was done
    reseal runbook --incident                  the order when the control plane itself was read

A rotation can die anywhere and goes on where it was. It revokes nothing before every place has the new value and every proof passed, \
revokes only what its journal names, and says whether the old value was *accepted* as revoked or *confirmed* dead. After the first \
irreversible step there is only forward.
";

/// The whole runbook.
pub fn runbook() -> String {
    let procedures = SecretName::ALL.into_iter().map(|secret| procedure::procedure(secret.recipe()));
    let mut parts = vec![INTRODUCTION.to_owned(), secrets(), coupled()];
    parts.extend(procedures);
    parts.extend([format!("#{}", incident()), outside(), contacts()]);
    parts.join("\n")
}

fn secrets() -> String {
    let row = |secret: SecretName| {
        let recipe = secret.recipe();
        let age = match recipe.max_age_days {
            Some(days) => format!("every {days} days"),
            None if recipe.strategies.is_empty() => "rotates itself".to_owned(),
            None => "only for a reason".to_owned(),
        };
        format!("| `{secret}` | {} | {} | {age} |\n", recipe.kept.join(", "), recipe.purpose)
    };
    let rows: String = SecretName::ALL.into_iter().map(row).collect();
    format!("## Secret map\n\n| secret | kept in | purpose | rotated |\n|---|---|---|---|\n{rows}")
}

fn coupled() -> String {
    let line = |secret: SecretName| {
        let recipe = secret.recipe();
        Some(format!("- `{secret}`: {} {}\n", recipe.coupled?, recipe.half_done))
    };
    let lines: String = SecretName::ALL.into_iter().filter_map(line).collect();
    format!("## Coupled secrets: rotated together, or not at all\n\n{lines}")
}

fn outside() -> String {
    let table = |role: Role| {
        let rows = OUTSIDE.iter().filter(|outside| outside.role == role).map(|outside| {
            format!(
                "| `{}` | {} | {} | {} | {} |\n",
                outside.name, outside.purpose, outside.kept, outside.holder, outside.renewed
            )
        });
        format!(
            "| name | purpose | kept in | held by | renewed |\n|---|---|---|---|---|\n{}",
            rows.collect::<String>()
        )
    };
    format!(
        "## Bootstrap credentials\n\nWhat reseal works with. None of them is ever rotated by it: a rotation must not end the \
         credential that it cleans up with, so each is reseal's own and not the value of a secret above.\n\n{}\n\
         ## The KMS\n\n{}\n## Known, and not rotated here\n\n{}",
        table(Role::Bootstrap),
        table(Role::Kms),
        table(Role::Known)
    )
}

fn contacts() -> String {
    let lines =
        map::contacts().into_iter().map(|contact| format!("- **{}**: {}\n", contact.who, contact.how));
    format!("## Emergency contacts\n\n{}", lines.collect::<String>())
}
