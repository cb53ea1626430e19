//! Destroying a retired key: after a soak, and after one more look at every value.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{
    Obstacle, OldKey, OldKind, Remedy, RetireError, Standing, concerned, obstacles::verification_in_words,
    refused, standing,
};
use crate::{
    envelope::v1::StaticCipher,
    rekey::{PAGE_BYTES, RekeyError},
    secret::Plaintext,
    store::{PageLimits, Retirement, RetirementState, Store, Target},
    time::rfc3339,
};

/// A key that was destroyed.
#[derive(Debug, Clone)]
pub struct Destroyed {
    /// Its name.
    pub key: String,
    /// The targets that were under it.
    pub targets: Vec<String>,
    /// Unix milliseconds by the database's clock, when it was retired.
    pub retired_ms: i64,
}

/// Destroys `key`: a data key for good; of any other it is recorded, and whoever keeps it is told.
///
/// `soak`: how long a key is kept after its retirement; as long as there are backups that need it. `confirm`: the key's
/// name, or what follows the colon in it, typed back. `longest`: the longest value that is looked at, in bytes.
///
/// # Errors
/// [`RetireError::Obstacles`]; [`RekeyError::Refused`] for a key that is not retired.
///
/// # Crash safety
/// One transaction at the end: the key is destroyed, or nothing was written.
pub async fn destroy(
    store: &Arc<dyn Store>,
    key: &OldKey,
    soak: Duration,
    confirm: Option<&str>,
    longest: usize,
) -> Result<Destroyed, RetireError> {
    let retirement = retirement(store.as_ref(), key).await?;
    let targets = concerned(store.as_ref(), key).await?;
    require_soaked(store.as_ref(), &retirement, soak, &targets[0]).await?;
    let mut obstacles = Vec::new();
    for target in &targets {
        obstacles.extend(census(store, key, &retirement, target, longest).await?);
    }
    if !obstacles.is_empty() {
        return Err(RetireError::Obstacles(obstacles));
    }
    let id = key.name.split_once(':').map_or(key.name.as_str(), |(_, id)| id);
    if confirm != Some(id) && confirm != Some(&key.name) {
        let what = format!("this can't be undone, and the name of the key was not typed back: {}", key.name);
        let (target, remedy) = (targets[0].clone(), Remedy::Confirm(id.to_owned()));
        return Err(RetireError::Obstacles(vec![Obstacle { what, target, remedy, waiver: None }]));
    }
    let detail = serde_json::json!({
        "retired": rfc3339(retirement.retired_ms),
        "soak_seconds": soak.as_secs(),
    });
    if !store.destroy(&key.name, key.data_key(), detail).await? {
        self::retirement(store.as_ref(), key).await?;
        return Err(refused(format!("{} is not as it was retired", key.name), "reseal keys list"));
    }
    let targets = targets.into_iter().map(|target| target.name).collect();
    Ok(Destroyed { key: key.name.clone(), targets, retired_ms: retirement.retired_ms })
}

async fn retirement(store: &dyn Store, key: &OldKey) -> Result<Retirement, RetireError> {
    let retirements = store.retirements().await?;
    let found = retirements.into_iter().find(|retirement| retirement.key == key.name);
    let found = found.ok_or_else(|| {
        refused(format!("{} is not retired", key.name), "first: reseal retire KEY --new KEY")
    })?;
    match (found.state, found.destroyed_ms) {
        (RetirementState::Destroyed, Some(at)) => {
            Err(refused(format!("{} was destroyed on {}", key.name, rfc3339(at)), "reseal keys list"))
        }
        _ => Ok(found),
    }
}

/// A clock that went back since the retirement, or since anything else that was recorded, measures no soak.
async fn require_soaked(
    store: &dyn Store,
    retirement: &Retirement,
    soak: Duration,
    target: &Target,
) -> Result<(), RetireError> {
    let (now, recorded) = store.clock().await?;
    let latest = recorded.unwrap_or(retirement.retired_ms).max(retirement.retired_ms);
    if now < latest {
        return Err(refused(
            format!(
                "the database's clock was set back: it is {}, and {} is on record",
                rfc3339(now),
                rfc3339(latest)
            ),
            "set the server's clock right, and try again",
        ));
    }
    let end = retirement.retired_ms.saturating_add(i64::try_from(soak.as_millis()).unwrap_or(i64::MAX));
    if now >= end {
        return Ok(());
    }
    let what = format!(
        "{} was retired on {} and soaks until {}, for the sake of backups made before",
        retirement.key,
        rfc3339(retirement.retired_ms),
        rfc3339(end)
    );
    Err(RetireError::Obstacles(vec![Obstacle {
        what,
        target: target.clone(),
        remedy: Remedy::Later,
        waiver: None,
    }]))
}

/// Whether a value shows the key: by its header, by opening each under a static key, or, for a KMS key, which leaves no
/// mark that others could read, by a verify that is younger than the retirement.
async fn census(
    store: &Arc<dyn Store>,
    key: &OldKey,
    retirement: &Retirement,
    target: &Target,
    longest: usize,
) -> Result<Option<Obstacle>, RetireError> {
    let obstacle = |what, remedy| Some(Obstacle { what, target: target.clone(), remedy, waiver: None });
    let seen = match &key.kind {
        OldKind::Data(key_id) => {
            let header = [&[0x03], key_id.as_bytes().as_slice()].concat();
            store.count_beginning(target, &header).await?
        }
        OldKind::Static(cipher) => opened_by(store, target, cipher, longest).await?,
        OldKind::Kms => {
            let standing = standing(store.as_ref(), target).await?;
            return Ok(standing
                .and_then(|standing| unverified(&standing, retirement))
                .and_then(|(what, remedy)| obstacle(what, remedy)));
        }
    };
    let what = || format!("{seen} values of {} are under {} again", target.name, key.name);
    Ok(if seen == 0 { None } else { obstacle(what(), Remedy::Run) })
}

fn unverified(standing: &Standing, retirement: &Retirement) -> Option<(String, Remedy)> {
    let wrong = verification_in_words(standing);
    let began = standing.verification.as_ref().map(|verification| verification.begun.began_ms);
    let old = began.is_none_or(|began| began < retirement.retired_ms);
    wrong.or_else(|| {
        old.then(|| {
            (
                format!("the latest verify of {} is older than the retirement", standing.target.name),
                Remedy::Verify,
            )
        })
    })
}

/// How many values of the target open under `cipher`, as one snapshot sees them.
async fn opened_by(
    store: &Arc<dyn Store>,
    target: &Target,
    cipher: &StaticCipher,
    longest: usize,
) -> Result<u64, RekeyError> {
    let limits = PageLimits { rows: 1000, bytes: PAGE_BYTES, value: longest };
    let (sender, mut pages) = mpsc::channel(2);
    let reader = tokio::spawn({
        let (store, target) = (Arc::clone(store), target.clone());
        async move { store.snapshot(&target, limits, sender).await }
    });
    let (mut opened, mut plaintext, mut buffer) = (0, Plaintext::new(), Vec::new());
    while let Some(page) = pages.recv().await {
        for row in 0..page.keys.len() {
            for (column, definition) in target.columns.iter().enumerate() {
                let value = page.cells.at(row, column);
                let value = value.and_then(|stored| definition.encoding.decode(stored, &mut buffer));
                if value.is_some_and(|value| cipher.open_into(value, &mut plaintext).is_ok()) {
                    opened += 1;
                }
            }
        }
    }
    plaintext.clear();
    reader.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    Ok(opened)
}
