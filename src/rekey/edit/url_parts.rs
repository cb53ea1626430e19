//! A URL taken apart without a copy of its text.

use url::Host;

/// The parts of a URL's authority, as they stand in its text (RFC 3986 §3.2; as readers do, the last `@` ends the
/// user's part). No copy of the text is made, and nothing is normalised.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) scheme: &'a str,
    pub(super) user: &'a str,
    pub(super) password: Option<&'a str>,
    /// The text up to the password, and from its end.
    pub(super) around_password: Option<(&'a str, &'a str)>,
    host: &'a str,
    port: &'a str,
    /// The text up to the end of the authority, and from there.
    pub(super) around_rest: (&'a str, &'a str),
}

impl<'a> Parts<'a> {
    pub(super) fn of(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let start = text.len() - rest.len();
        let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        let (user_info, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match user_info.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (user_info, None),
        };
        let around_password = password.map(|password| {
            let from = start + user.len() + 1;
            (&text[..from], &text[from + password.len()..])
        });
        // The colons of an IPv6 address are within its brackets.
        let colon = place.rfind(':').filter(|&colon| !place[colon..].contains(']'));
        let (host, port) = colon.map_or((place, ""), |colon| (&place[..colon], &place[colon + 1..]));
        let around_rest = text.split_at(start + authority.len());
        let parts = Self { scheme, user, password, around_password, host, port, around_rest };
        (!host.is_empty()).then_some(parts)
    }

    /// Whether these are the same server and user.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        self.scheme.eq_ignore_ascii_case(other.scheme)
            && decoded(self.user).eq(decoded(other.user))
            && is_same_host(self.host, other.host)
            && self.port().is_some()
            && self.port() == other.port()
    }

    /// The port, 0 where neither the URL nor its scheme has one; `None` if it is not a number.
    fn port(&self) -> Option<u16> {
        if !self.port.is_empty() {
            return self.port.parse().ok();
        }
        let known = [("redis", 6379), ("rediss", 6379), ("postgres", 5432), ("postgresql", 5432)];
        let own = known.iter().find(|(scheme, _)| self.scheme.eq_ignore_ascii_case(scheme));
        Some(own.map_or(0, |(_, port)| *port))
    }
}

fn is_same_host(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
        || matches!((Host::parse(one), Host::parse(other)), (Ok(one), Ok(other)) if one == other)
}

/// The bytes that a percent-encoded text stands for (RFC 3986 §2.1); a `%` that begins no encoding stands for itself.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        let mut pair = [0];
        let encodes = byte == b'%'
            && bytes
                .get(at + 1..at + 3)
                .is_some_and(|digits| hex::decode_to_slice(digits, &mut pair).is_ok());
        at += if encodes { 3 } else { 1 };
        Some(if encodes { pair[0] } else { byte })
    })
}
