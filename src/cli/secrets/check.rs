//! `secrets check`.

use reseal::{
    providers::Life,
    rotation::check::{self, Finding, KeySight, PlaceLook, SecretSight, Sight, Value, ValueLook, Which},
    time::NotATime,
};
use serde_json::json;

use super::{
    super::{
        Answer, Call, Exit, Fault, rotation,
        stdio::{shown, time, wrapped},
    },
    list::{state_in_words, state_json},
};

pub(crate) async fn run(call: &Call) -> Result<Answer, Fault> {
    let since = call.args.get_one::<String>("since").map(|text| reseal::time::parse(text));
    let since = since.transpose().map_err(|error: NotATime| Fault::usage(format!("--since: {error}")))?;
    let (store, vault, estate) = rotation::sight(call).await?;
    let sight = check::look(store.as_ref(), vault.as_ref(), &estate).await;
    let sight = sight.map_err(|error| rotation::fault(call, error))?;
    let findings = check::findings(&sight, since);
    Ok(answer(&sight, since, &findings))
}

fn answer(sight: &Sight, since: Option<i64>, findings: &[Finding]) -> Answer {
    let secrets = sight.secrets.iter().map(secret_in_words).collect::<String>();
    let was_looked_at = was_looked_at(sight);
    let verdict = match findings.len() {
        0 if !was_looked_at => "Nothing could be looked at: that nothing is off is not known.\n".to_owned(),
        0 => "Nothing is off, as far as can be seen.\n".to_owned(),
        1 => "1 thing is off.\n".to_owned(),
        many => format!("{many} things are off.\n"),
    };
    let lines = findings.iter().map(finding_in_words).collect::<String>();
    let json = json!({
        "command": "secrets check",
        "ok": findings.is_empty() && was_looked_at,
        "time": time(sight.now_ms),
        "since": since.map(time),
        "findings": findings.iter().map(|finding| json!({
            "kind": finding.kind.as_str(),
            "secret": finding.secret.as_str(),
            "what": finding.what,
            "hint": finding.hint,
        })).collect::<Vec<_>>(),
        "secrets": sight.secrets.iter().map(secret_json).collect::<Vec<_>>(),
        "tenants_hold_the_key": key_json(&sight.key),
    });
    let human = format!("{secrets}{}\n{lines}{verdict}", wrapped(&key_in_words(&sight.key), 0));
    let exit = if findings.is_empty() && was_looked_at { Exit::Done } else { Exit::Attention };
    let hints = if was_looked_at {
        Vec::new()
    } else {
        vec!["give reseal credentials of its own: reseal config lists them; then say what is there: reseal rotate adopt SECRET".to_owned()]
    };
    Answer::Report { exit, human, json, hints }
}

/// Whether a value was tried or a place seen at all: who is told by the exit code alone must not take silence for health.
fn was_looked_at(sight: &Sight) -> bool {
    let tried = |value: &Value| matches!(value.look, ValueLook::Tried(Life::Live | Life::Dead));
    let seen = |secret: &SecretSight| {
        secret.values.iter().any(tried)
            || secret.places.iter().any(|place| matches!(place.look, PlaceLook::Seen(_)))
    };
    matches!(sight.key, KeySight::Seen { .. }) || sight.secrets.iter().any(seen)
}

fn finding_in_words(finding: &Finding) -> String {
    let line = format!("{}: {}: {}", finding.kind.as_str(), finding.secret, shown(&finding.what));
    wrapped(&line, 0) + &wrapped(&finding.hint, 2)
}

fn secret_in_words(sight: &SecretSight) -> String {
    let standing = &sight.standing;
    let mut text = format!("{}: {}\n", standing.secret, state_in_words(&standing.state));
    for value in &sight.values {
        text += &wrapped(&format!("{}: {}", which(value.which), shown(&value.look.in_words())), 2);
    }
    for place in &sight.places {
        let verdict = place.verdict(standing.secret).in_words();
        let name = format!("{} on {}", place.location.variable(), place.location.as_str());
        text += &wrapped(&format!("{name}: {}", shown(&verdict)), 2);
    }
    if let Some(deadline) = sight.deadline {
        text += &format!("  the old value ends at {}\n", time(deadline.at_ms));
    }
    text
}

fn which(which: Which) -> &'static str {
    match which {
        Which::InUse => "value in use",
        Which::Revoked => "revoked value",
    }
}

fn secret_json(sight: &SecretSight) -> serde_json::Value {
    let standing = &sight.standing;
    json!({
        "secret": standing.secret.as_str(),
        "rotation": state_json(&standing.state),
        "rotated": standing.replaced_ms.map(time),
        "age_days": standing.age_days,
        "values": sight.values.iter().map(|value| json!({
            "which": which(value.which),
            "id": value.id,
            "seen": look(value),
        })).collect::<Vec<_>>(),
        "places": sight.places.iter().map(|place| {
            let verdict = place.verdict(standing.secret);
            json!({
                "place": place.location.as_str(),
                "variable": place.location.variable(),
                "seen": verdict.as_str(),
                "in_words": verdict.in_words(),
            })
        }).collect::<Vec<_>>(),
        "old_value_ends": sight.deadline.map(|deadline| time(deadline.at_ms)),
    })
}

fn look(value: &Value) -> &'static str {
    match &value.look {
        ValueLook::NotKnown => "not-known",
        ValueLook::NoProbe => "no-probe",
        ValueLook::NotConfigured(_) => "not-tried",
        ValueLook::Tried(Life::Live) => "live",
        ValueLook::Tried(Life::Dead) => "dead",
        ValueLook::Tried(Life::Unknown(_)) => "unknown",
    }
}

fn key_in_words(key: &KeySight) -> String {
    match key {
        KeySight::NotSeen(why) => {
            format!("Whether tenants hold SECRETS_ENCRYPTION_KEY was not looked at: {}", shown(why))
        }
        KeySight::Seen { .. } if key.is_shared() => {
            "A tenant's machine holds the same SECRETS_ENCRYPTION_KEY as the control plane's.".to_owned()
        }
        KeySight::Seen { control_plane, tenant } => {
            let has = |digest: &Option<[u8; 32]>| if digest.is_some() { "one" } else { "none" };
            format!(
                "SECRETS_ENCRYPTION_KEY: the control plane's machine has {}, a tenant's {}; they are not the same.",
                has(control_plane),
                has(tenant)
            )
        }
    }
}

fn key_json(key: &KeySight) -> serde_json::Value {
    match key {
        KeySight::NotSeen(why) => json!({"seen": false, "why": why}),
        KeySight::Seen { control_plane, tenant } => json!({
            "seen": true,
            "shared": key.is_shared(),
            "control_plane_has_one": control_plane.is_some(),
            "tenant_has_one": tenant.is_some(),
        }),
    }
}
