//! The edit for a shared server that another took the place of: another host, user and password, the same path.

use std::fmt;

use sha2::{Digest, Sha256};

use super::{Edit, Edited, UrlPassword, UrlPasswordError, url_parts::Parts};
use crate::{
    envelope::Cell,
    secret::{Plaintext, SecretText},
};

/// Puts the new shared server in the place of the old one, and touches no other URL.
///
/// Where both are the same server and user, only the password is edited ([`UrlPassword`]). Otherwise everything up to
/// the end of the authority is the new URL's afterwards; path, query and fragment stay byte for byte. A URL that was
/// edited is no longer the old server's: edited again, it stays.
#[derive(Debug)]
pub struct SharedUrl(Way);

enum Way {
    Password(UrlPassword),
    Server { old: SecretText, new: SecretText },
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Way(…)")
    }
}

impl SharedUrl {
    /// The edit that takes the URLs of the server of `old` to that of `new`.
    ///
    /// # Errors
    /// See [`UrlPasswordError`]; never its `Elsewhere`.
    pub fn new(old: SecretText, new: SecretText) -> Result<Self, UrlPasswordError> {
        let from = Parts::of(old.expose()).ok_or(UrlPasswordError::Old)?;
        let to = Parts::of(new.expose()).ok_or(UrlPasswordError::New)?;
        if to.password.is_none_or(str::is_empty) {
            return Err(UrlPasswordError::New);
        }
        if to.is_at(&from) {
            return UrlPassword::new(old, &new).map(|edit| Self(Way::Password(edit)));
        }
        Ok(Self(Way::Server { old, new }))
    }
}

impl Edit for SharedUrl {
    fn name(&self) -> &str {
        match &self.0 {
            Way::Password(edit) => edit.name(),
            Way::Server { .. } => "shared-url",
        }
    }

    fn fingerprint(&self) -> [u8; 32] {
        let (old, new) = match &self.0 {
            Way::Password(edit) => return edit.fingerprint(),
            Way::Server { old, new } => (old.expose(), new.expose()),
        };
        let mut hash = Sha256::new();
        for part in [old, new] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    fn edit(&self, cell: Cell<'_>, plaintext: &Plaintext, out: &mut Plaintext) -> Edited {
        let (old, new) = match &self.0 {
            Way::Password(edit) => return edit.edit(cell, plaintext, out),
            Way::Server { old, new } => (Parts::of(old.expose()), Parts::of(new.expose())),
        };
        let Ok(text) = std::str::from_utf8(plaintext.expose()) else { return Edited::Same };
        let (Some(old), Some(new), Some(parts)) = (old, new, Parts::of(text)) else { return Edited::Same };
        if !parts.is_at(&old) {
            return Edited::Same;
        }
        let (server, rest) = (new.around_rest.0, parts.around_rest.1);
        let out = out.expose_mut();
        out.reserve(server.len() + rest.len());
        [server, rest].iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        Edited::Changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(old: &str, new: &str, text: &str) -> Option<String> {
        let secret = |text: &str| SecretText::new(text.to_owned());
        let edit = SharedUrl::new(secret(old), secret(new)).unwrap();
        let (cell, mut out) = (Cell { table: "t", column: "c", row: "r" }, Plaintext::new());
        let plaintext = Plaintext::from(text.as_bytes().to_vec());
        match edit.edit(cell, &plaintext, &mut out) {
            Edited::Changed => Some(String::from_utf8(out.expose().to_vec()).unwrap()),
            Edited::Same => None,
        }
    }

    #[test]
    fn another_server_takes_the_place_and_the_path_stays() {
        let (old, new) =
            ("rediss://default:one@old.upstash.io:6379", "rediss://default:two@new.upstash.io:6380");
        let there = edited(old, new, "rediss://default:one@old.upstash.io/3?x=%20").unwrap();
        assert_eq!(there, "rediss://default:two@new.upstash.io:6380/3?x=%20");
        assert_eq!(edited(old, new, &there), None, "twice is once");
        assert_eq!(edited(old, new, "rediss://default:one@other.upstash.io:6379"), None);
        assert_eq!(edited(old, new, "rediss://acme:one@old.upstash.io:6379"), None);
        assert_eq!(edited(old, new, "not a URL"), None);
    }

    #[test]
    fn on_the_same_server_only_the_password_changes() {
        let (old, new) = ("redis://u:one@host:6379/0", "redis://u:two@host:6379/0");
        assert_eq!(edited(old, new, "redis://u:one@host/7").as_deref(), Some("redis://u:two@host/7"));
    }

    #[test]
    fn a_server_without_a_password_is_no_new_one() {
        let secret = |text: &str| SecretText::new(text.to_owned());
        let error = SharedUrl::new(secret("redis://u:one@a"), secret("redis://u@b")).unwrap_err();
        assert_eq!(error, UrlPasswordError::New);
    }
}
