//! Changing plaintexts on the way: a run that re-keys a value can edit it too.
//!
//! An edit is pure and idempotent, because a value may come by twice: after a crash, in a later sweep, or written
//! again by somebody who still has the old text. So a value is where it is to end when it is under the new key *and*
//! editing it changes nothing, and every edited value is edited once more before it may be stored.
//!
//! [`UrlPassword`] and [`SharedUrl`] are the edits for a shared server; whoever embeds this crate can bring their own.

use std::fmt::Debug;

use crate::{envelope::Cell, secret::Plaintext};

mod shared_url;
mod url_parts;
mod url_password;

pub use shared_url::SharedUrl;
pub use url_password::{UrlPassword, UrlPasswordError};

/// A change to plaintexts, the same for every value that it is for.
pub trait Edit: Debug + Send + Sync {
    /// What it is called, in the run's row and to the operator. Not secret.
    fn name(&self) -> &str;

    /// A hash of everything that decides what it does: workers with different ones don't share a run.
    ///
    /// It may be the hash of a password that can be guessed, so a run keeps it only sealed, as a value under its new
    /// key: who can't open values can't try guesses on it.
    fn fingerprint(&self) -> [u8; 32];

    /// Writes what `cell` is to hold instead of `plaintext` into `out`, which is empty; or leaves it, for
    /// [`Edited::Same`].
    ///
    /// No I/O. Editing `out` again must give [`Edited::Same`], or `out` once more. What it can't make sense of is not
    /// for it to change.
    fn edit(&self, cell: Cell<'_>, plaintext: &Plaintext, out: &mut Plaintext) -> Edited;
}

/// What an edit made of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edited {
    /// It stays as it is.
    Same,
    /// It is to be what was written.
    Changed,
}

/// What came of an edit on a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    /// The edit is not for it.
    Foreign,
    /// It is as the edit would have it.
    Already,
    /// It was changed.
    Changed,
}

/// The edit changes its own result.
#[derive(Debug)]
pub(super) struct NotIdempotent;

/// Edits `plaintext` in place, by way of `out`, which is wiped.
pub(super) fn apply(
    edit: &dyn Edit,
    cell: Cell<'_>,
    plaintext: &mut Plaintext,
    out: &mut Plaintext,
) -> Result<Applied, NotIdempotent> {
    out.clear();
    if edit.edit(cell, plaintext, out) == Edited::Same {
        out.clear();
        return Ok(Applied::Foreign);
    }
    if out == plaintext {
        out.clear();
        return Ok(Applied::Already);
    }
    let mut again = Plaintext::new();
    if edit.edit(cell, out, &mut again) == Edited::Changed && again != *out {
        return Err(NotIdempotent);
    }
    std::mem::swap(plaintext, out);
    out.clear();
    Ok(Applied::Changed)
}
