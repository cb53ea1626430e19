//! The password in a connection URL.

use url::Url;
use zeroize::Zeroizing;

use crate::secret::SecretText;

/// The password of a URL, decoded; `None` if it has none, or is no URL.
pub(super) fn password(url: &SecretText) -> Option<SecretText> {
    let url = Url::parse(url.expose()).ok()?;
    let bytes = decoded(url.password().filter(|password| !password.is_empty())?)?;
    std::str::from_utf8(&bytes).ok().map(|text| SecretText::new(text.to_owned()))
}

/// Whether two URLs have the same password, however it is encoded.
pub(super) fn is_same(one: &SecretText, other: &SecretText) -> bool {
    matches!((password(one), password(other)), (Some(one), Some(other)) if one == other)
}

/// The same URL with another password; `None` if it can't have one.
pub(super) fn with_password(url: &str, password: &SecretText) -> Option<SecretText> {
    let mut url = Url::parse(url).ok()?;
    url.set_password(Some(password.expose())).ok()?;
    Some(SecretText::new(url.into()))
}

/// The bytes that a percent-encoded text stands for (RFC 3986 §2.1); the parser has encoded every `%` that was none.
fn decoded(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            let mut pair = [0];
            hex::decode_to_slice(digits, &mut pair).ok()?;
            bytes.push(pair[0]);
            rest = after;
        } else {
            bytes.push(*byte);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretText {
        SecretText::new(text.to_owned())
    }

    #[test]
    fn a_password_is_the_same_however_it_is_encoded() {
        assert_eq!(password(&secret("postgresql://u:a%40b%2fc@h/d")), Some(secret("a@b/c")));
        assert!(is_same(&secret("postgresql://u:a%2Db@h/d"), &secret("postgres://v:a-b@i:1/e?x=y")));
        assert!(!is_same(&secret("postgresql://u:ab@h/d"), &secret("postgresql://u:aB@h/d")));
    }

    #[test]
    fn without_a_password_nothing_is_the_same() {
        for url in ["postgresql://u@h/d", "postgresql://u:@h/d", "nonsense", "postgresql://u:%ff@h/d"] {
            assert_eq!(password(&secret(url)), None, "{url}");
            assert!(!is_same(&secret(url), &secret(url)), "{url}");
        }
    }

    #[test]
    fn a_new_password_leaves_the_rest() {
        let url = with_password("postgresql://u:old@h:1/d?sslmode=require&a=b", &secret("n@w/:x"));
        let url = url.expect("a URL with a host takes a password");
        assert_eq!(url, secret("postgresql://u:n%40w%2F%3Ax@h:1/d?sslmode=require&a=b"));
        assert_eq!(password(&url), Some(secret("n@w/:x")));
        assert_eq!(with_password("mailto:somebody", &secret("x")), None);
    }
}
