//! The edit for a shared server whose password was reset: the same URL, the new password.

use std::fmt;

use sha2::{Digest, Sha256};
use url::Url;

use super::{Edit, Edited, url_parts::Parts};
use crate::{
    envelope::Cell,
    secret::{Plaintext, SecretText},
};

/// Puts a new password into the URLs of one shared server, and touches no others.
///
/// A URL is the shared server's if its scheme, host, port and user are those of the old shared URL; the port may be
/// left out where it is the scheme's own, and a user may be percent-encoded another way. Only the bytes of the password
/// are replaced, with those that the new shared URL has there: what else the URL says, and how, stays byte for byte. A
/// URL without a password stays without one.
pub struct UrlPassword {
    shared: SecretText,
    /// As it stands in a URL, percent-encoded.
    password: SecretText,
}

/// Why two URLs don't say which password to put where. Never shows either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlPasswordError {
    /// The old one is not a URL of a server.
    #[error("the old shared URL is not a URL with a host")]
    Old,
    /// The new one is not a URL of a server with a password.
    #[error("the new shared URL is not a URL with a host and a password")]
    New,
    /// They are of different servers or users.
    #[error(
        "the new shared URL has another scheme, host, port or user than the old one: only the password is edited"
    )]
    Elsewhere,
}

impl UrlPassword {
    /// The edit that takes the shared server's URLs, like `old`, to the password of `new`.
    ///
    /// # Errors
    /// See [`UrlPasswordError`].
    pub fn new(old: SecretText, new: &SecretText) -> Result<Self, UrlPasswordError> {
        let is_url = |text: &SecretText| Url::parse(text.expose()).is_ok_and(|url| url.has_host());
        let place = Parts::of(old.expose()).filter(|_| is_url(&old)).ok_or(UrlPasswordError::Old)?;
        let parts = Parts::of(new.expose()).filter(|_| is_url(new)).ok_or(UrlPasswordError::New)?;
        let password = parts.password.filter(|password| !password.is_empty()).ok_or(UrlPasswordError::New)?;
        if !parts.is_at(&place) {
            return Err(UrlPasswordError::Elsewhere);
        }
        Ok(Self { password: SecretText::new(encoded(password)), shared: old })
    }
}

impl Edit for UrlPassword {
    fn name(&self) -> &str {
        "url-password"
    }

    fn fingerprint(&self) -> [u8; 32] {
        let shared = self.shared.expose();
        let mut hash = Sha256::new();
        for part in [shared, self.password.expose()] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    fn edit(&self, _: Cell<'_>, plaintext: &Plaintext, out: &mut Plaintext) -> Edited {
        let Ok(text) = std::str::from_utf8(plaintext.expose()) else { return Edited::Same };
        let shared = Parts::of(self.shared.expose());
        let parts = Parts::of(text).filter(|parts| shared.is_some_and(|shared| parts.is_at(&shared)));
        let Some((before, after)) = parts.and_then(|parts| parts.around_password) else {
            return Edited::Same;
        };
        let password = self.password.expose();
        let out = out.expose_mut();
        out.reserve(before.len() + password.len() + after.len());
        [before, password, after].iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        Edited::Changed
    }
}

impl fmt::Debug for UrlPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UrlPassword(…)")
    }
}

/// A password as it may stand in any URL: what a reader could take for the end of the password is percent-encoded,
/// and what is encoded already is left.
fn encoded(password: &str) -> String {
    let mut text = String::with_capacity(3 * password.len());
    for char in password.chars() {
        match char {
            '@' | ':' | '[' | ']' | ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}' => {
                text.push_str(&format!("%{:02X}", u32::from(char)));
            }
            char => text.push(char),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "rediss://default:old%40pass@shared.upstash.io:6379";
    const NEW: &str = "rediss://default:n%40w%2Fp%3Ass@shared.upstash.io:6379";

    fn secret(text: &str) -> SecretText {
        SecretText::new(text.to_owned())
    }

    fn edited(old: &str, new: &str, text: &str) -> Option<String> {
        let edit = UrlPassword::new(secret(old), &secret(new)).unwrap();
        let cell = Cell { table: "t", column: "c", row: "r" };
        let mut out = Plaintext::new();
        let plaintext = Plaintext::from(text.as_bytes().to_vec());
        match edit.edit(cell, &plaintext, &mut out) {
            Edited::Same => None,
            Edited::Changed => Some(String::from_utf8(out.expose().to_vec()).unwrap()),
        }
    }

    #[test]
    fn only_the_password_changes() {
        let password = "n%40w%2Fp%3Ass";
        for (before, after) in [
            ("rediss://default:", "@shared.upstash.io:6379"),
            ("rediss://default:", "@shared.upstash.io"),
            ("rediss://default:", "@SHARED.upstash.io:06379/0?a=b:c@d#x@y"),
            ("REDISS://def%61ult:", "@shared.upstash.io?password=q"),
            ("rediss://default:", "@shared.upstash.io/a%20b/é"),
        ] {
            for old in ["old%40pass", "old@pass", "", "a:b:c", "p%"] {
                let text = format!("{before}{old}{after}");
                let new = format!("{before}{password}{after}");
                assert_eq!(edited(OLD, NEW, &text).as_deref(), Some(&*new), "{text}");
                // As a reader of URLs sees it.
                let (was, is) = (Url::parse(&text).unwrap(), Url::parse(&new).unwrap());
                assert_eq!(is.password(), Some(password));
                assert_eq!(
                    (was.scheme(), was.username(), was.host()),
                    (is.scheme(), is.username(), is.host())
                );
                assert_eq!((was.port(), was.path(), was.query()), (is.port(), is.path(), is.query()));
                assert_eq!(edited(OLD, NEW, &new).as_deref(), Some(&*new), "once more changes nothing");
            }
        }
    }

    #[test]
    fn what_is_not_the_shared_servers_stays() {
        for text in [
            "rediss://default@shared.upstash.io:6379",
            "rediss://shared.upstash.io:6379",
            "rediss://:old%40pass@shared.upstash.io:6379",
            "rediss://other:old%40pass@shared.upstash.io:6379",
            "redis://default:old%40pass@shared.upstash.io:6379",
            "rediss://default:old%40pass@shared.upstash.io:6380",
            "rediss://default:old%40pass@shared.upstash.io:port",
            "rediss://default:old%40pass@shared.upstash.io.evil.example:6379",
            "rediss://default:old%40pass@evil.example/@shared.upstash.io:6379",
            "rediss://default:old%40pass@evil.example#@shared.upstash.io:6379",
            "postgres://default:old%40pass@shared.upstash.io:6379/main",
            "opensesame",
            "rediss://",
            "://@:",
            "",
        ] {
            assert_eq!(edited(OLD, NEW, text), None, "{text}");
        }
    }

    #[test]
    fn addresses_and_users_in_other_words() {
        let of = |host: &str, port: &str, password: &str| format!("redis://:{password}@{host}{port}/1");
        let (old, new) = (of("[::1]", ":6379", "a"), of("[::1]", "", "b"));
        assert_eq!(
            edited(&old, &new, &of("[0:0:0:0:0:0:0:1]", "", "a")).unwrap(),
            of("[0:0:0:0:0:0:0:1]", "", "b")
        );
        assert_eq!(edited(&old, &new, &of("[::2]", "", "a")), None);
        let (old, new) = ("db://a%2Fb:x@h:1", "db://a%2fb:y@h:1");
        assert_eq!(edited(old, new, "db://%61%2Fb:z@h:1").unwrap(), "db://%61%2Fb:y@h:1");
    }

    #[test]
    fn the_two_urls_differ_in_the_password_alone() {
        let refused = |old: &str, new: &str| UrlPassword::new(secret(old), &secret(new)).unwrap_err();
        assert_eq!(refused("shared.upstash.io", NEW), UrlPasswordError::Old);
        for new in ["opensesame", "rediss://default@shared.upstash.io", "rediss://default:@shared.upstash.io"]
        {
            assert_eq!(refused(OLD, new), UrlPasswordError::New);
        }
        for new in [
            "rediss://default:x@other.upstash.io:6379",
            "rediss://other:x@shared.upstash.io:6379",
            "redis://default:x@shared.upstash.io:6379",
            "rediss://default:x@shared.upstash.io:6380",
        ] {
            assert_eq!(refused(OLD, new), UrlPasswordError::Elsewhere);
        }
    }

    #[test]
    fn another_password_has_another_fingerprint() {
        let of = |new: &str| UrlPassword::new(secret(OLD), &secret(new)).unwrap().fingerprint();
        assert_eq!(of(NEW), of(NEW));
        assert_ne!(of(NEW), of("rediss://default:other@shared.upstash.io:6379"));
    }

    /// What a person pastes without encoding it is encoded on the way in.
    #[test]
    fn a_password_is_encoded_where_a_reader_needs_it() {
        let new = "rediss://default:p@ss:w d!%20@shared.upstash.io:6379";
        let text = edited(OLD, new, OLD).unwrap();
        assert_eq!(text, "rediss://default:p%40ss%3Aw%20d!%20@shared.upstash.io:6379");
        assert_eq!(Url::parse(&text).unwrap().password(), Some("p%40ss%3Aw%20d!%20"));
    }
}
