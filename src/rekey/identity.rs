//! Whether a run in the store is the one that a job is for: the same format, keys and kind.
//!
//! An edit's fingerprint may be the hash of a password that can be guessed. The run's row holds it sealed as a value of
//! the target is, under the run's new key: a worker that has the keys opens it and compares, and whoever reads the
//! database has nothing to try guesses on. No key had to be made for it, and it works for a KMS as for a static key.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{Edit, Job, Kind, RekeyError, RunKeys, RunKind};
use crate::{
    keyring::{Attempt, Sealer},
    secret::Plaintext,
};

/// What v3 binds the sealed fingerprint to in place of a row's key.
const ROW: &str = "reseal: the edit of a run";

/// What a run of this kind is to have in its row.
pub(super) async fn of(kind: &Kind, sealer: &Sealer) -> Result<RunKind, RekeyError> {
    let edit = match kind {
        Kind::Rekey => return Ok(RunKind::Rekey),
        Kind::Rewrap => return Ok(RunKind::Rewrap),
        Kind::Rewrite(edit) => edit,
    };
    let fingerprint = Plaintext::from(edit.fingerprint().to_vec());
    let row_keys = sealer.row_keys().await?;
    let (mut sealed, mut check) = (Vec::new(), Plaintext::new());
    sealer.seal(0, ROW, row_keys.as_ref(), &fingerprint, &mut sealed, &mut check)?;
    Ok(RunKind::Rewrite { edit: edit.name().to_owned(), sealed: BASE64_STANDARD.encode(sealed) })
}

/// Whether a run with these `keys` in its row is `job`'s.
pub(super) async fn is_same(job: &Job, keys: &str) -> Result<bool, RekeyError> {
    let Ok(stored) = serde_json::from_str::<RunKeys>(keys) else { return Ok(false) };
    let ours = &job.keys;
    if (stored.format, &stored.new, &stored.old, stored.scope)
        != (ours.format, &ours.new, &ours.old, ours.scope)
    {
        return Ok(false);
    }
    match (&job.options.kind, &stored.kind) {
        (Kind::Rekey, RunKind::Rekey) | (Kind::Rewrap, RunKind::Rewrap) => Ok(true),
        (Kind::Rewrite(edit), RunKind::Rewrite { edit: name, sealed }) if edit.name() == name => {
            is_sealed(job, edit.as_ref(), sealed).await
        }
        _ => Ok(false),
    }
}

async fn is_sealed(job: &Job, edit: &dyn Edit, sealed: &str) -> Result<bool, RekeyError> {
    let Ok(sealed) = BASE64_STANDARD.decode(sealed) else { return Ok(false) };
    let mut fingerprint = Plaintext::new();
    let attempt = job.opener.open(0, ROW, &sealed, &mut fingerprint).await?;
    let is_ours = matches!(&attempt, Attempt::Opened(origin) if job.sealer.is_current(origin));
    Ok(is_ours && fingerprint == Plaintext::from(edit.fingerprint().to_vec()))
}
