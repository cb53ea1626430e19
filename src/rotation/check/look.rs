//! Looks at the journal and at the providers. Changes nothing.

use super::{
    Deadline, KeySight, Place, PlaceLook, SecretSight, Sight, Value, ValueLook, Which, expected::expected,
};
use crate::{
    journal::{Owner, Vault},
    rotation::{
        Estate, RotationError, SecretName, Standing,
        recipe::{Action, LocationName},
        state::Event,
    },
    store::{Credential, CredentialState, RotationRecord, RotationRow, Store},
};

/// What the key is called in the environment of whoever has it.
const KEY: &str = "SECRETS_ENCRYPTION_KEY";

/// How many tenants' machines are asked whether they run, before it is left at that.
const TENANTS: usize = 5;

/// Looks at everything. Without a `vault` no value is known.
///
/// # Errors
/// The journal's. Trouble with a provider is part of what is seen.
pub async fn look(store: &dyn Store, vault: Option<&Vault>, estate: &Estate) -> Result<Sight, RotationError> {
    let now_ms = store.now_ms().await?;
    let mut secrets = Vec::new();
    for secret in SecretName::ALL {
        secrets.push(at(secret, now_ms, store, vault, estate).await?);
    }
    let key = key(estate).await.unwrap_or_else(|why| KeySight::NotSeen(why.to_string()));
    Ok(Sight { now_ms, secrets, key })
}

async fn at(
    secret: SecretName,
    now_ms: i64,
    store: &dyn Store,
    vault: Option<&Vault>,
    estate: &Estate,
) -> Result<SecretSight, RotationError> {
    let rows = store.rotations(Some(secret.as_str())).await?;
    let credentials = store.credentials(Some(secret.as_str())).await?;
    let standing = Standing::of(secret, &rows, &credentials, now_ms);
    let mut journal = Vec::new();
    for row in rows.into_iter().rev() {
        let records = store.rotation_records(&row.rotation_id).await?;
        journal.push((row, records));
    }
    let mut places = Vec::new();
    for location in secret.recipe().locations() {
        let expected = expected(secret, location, &journal, &credentials);
        places.push(Place { location, expected, look: place(estate, location).await });
    }
    let mut values = Vec::new();
    for credential in &credentials {
        let which = match credential.state {
            CredentialState::Current => Which::InUse,
            CredentialState::Revoked if credential.sealed.is_some() => Which::Revoked,
            _ => continue,
        };
        let look = value(secret, credential, vault, estate).await;
        values.push(Value { which, id: credential.provider_id.clone(), look });
    }
    values.sort_by_key(|value| value.which != Which::InUse);
    let strays = credentials.into_iter().filter(|known| known.state == CredentialState::Stray);
    let strays = strays.map(|stray| stray.provider_id.unwrap_or(stray.credential_id)).collect();
    let open = journal.iter().find(|(row, _)| row.ended_ms.is_none());
    let deadline = open.and_then(|(row, records)| deadline(secret, row, records));
    Ok(SecretSight { standing, values, places, deadline, strays })
}

async fn place(estate: &Estate, location: LocationName) -> PlaceLook {
    match estate.location(location) {
        Err(error) => PlaceLook::NotConfigured(error.to_string()),
        Ok(location) => match location.observe().await {
            Ok(observed) => PlaceLook::Seen(observed),
            Err(error) => PlaceLook::Failed(error.to_string()),
        },
    }
}

async fn value(
    secret: SecretName,
    credential: &Credential,
    vault: Option<&Vault>,
    estate: &Estate,
) -> ValueLook {
    let Some(probe) = secret.probe() else { return ValueLook::NoProbe };
    let sealed = credential.sealed.as_deref().zip(vault);
    let Some(value) =
        sealed.and_then(|(sealed, vault)| vault.open(Owner::Credential(&credential.credential_id), sealed))
    else {
        return ValueLook::NotKnown;
    };
    match estate.probe(probe) {
        Err(error) => ValueLook::NotConfigured(error.to_string()),
        Ok(probe) => ValueLook::Tried(probe.probe(&value).await),
    }
}

/// When the old value ends, where the strategy has a window.
fn deadline(secret: SecretName, row: &RotationRow, records: &[RotationRecord]) -> Option<Deadline> {
    let steps = secret.recipe().strategy(Some(&row.strategy))?.steps;
    let window = steps.iter().find_map(|step| match step.action {
        Action::AwaitWindow(window) => Some(window),
        _ => None,
    })?;
    let done = |is: fn(&Action) -> bool| {
        let step = steps.iter().find(|step| is(&step.action))?;
        let succeeded =
            |record: &&RotationRecord| record.step == step.name && record.event == Event::Succeeded.as_str();
        records.iter().rfind(succeeded)
    };
    let began = done(|action| matches!(action, Action::Ask(_) | Action::Mint(_)))?;
    let is_delivered = done(|action| matches!(action, Action::Deploy)).is_some();
    Some(Deadline { at_ms: began.at_ms + i64::from(window.hours) * 3_600_000, is_delivered })
}

async fn key(estate: &Estate) -> Result<KeySight, RotationError> {
    let fly = estate.fly()?;
    let tenants = estate.some_tenant_machines(TENANTS).await?;
    let seen = async {
        let control_plane = fly.fly.machines(&fly.app).await?.into_iter().find(|machine| machine.is_up());
        let mut tenant = None;
        for [app, id] in tenants {
            match fly.fly.machine(&app, &id).await {
                Ok(machine) if machine.is_up() => {
                    tenant = Some((app, machine.id));
                    break;
                }
                Ok(_) => {}
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        let (Some(control_plane), Some((app, id))) = (control_plane, tenant) else {
            return Ok(KeySight::NotSeen("no machine of the control plane and of a tenant runs".to_owned()));
        };
        Ok(KeySight::Seen {
            control_plane: fly.fly.secret_digest(&fly.app, &control_plane.id, KEY).await?,
            tenant: fly.fly.secret_digest(&app, &id, KEY).await?,
        })
    };
    Ok(seen.await.unwrap_or_else(|error| KeySight::NotSeen(error.to_string())))
}
