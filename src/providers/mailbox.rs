//! The From line of a message: one mailbox of RFC 5322, section 3.4.

use std::str::FromStr;

use email_address::{EmailAddress, Options};
use url::Host;

/// Who sends: `Name <name@example.com>`, or the address alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    text: String,
    address: String,
    domain: String,
}

/// Text that is not one mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAMailbox {
    /// The display name has characters that need quotes, or that no header may have.
    #[error("the name before the address has characters that RFC 5322 wants in quotes, or forbids")]
    Name,
    /// The address is none.
    #[error("the address is not one of the form name@example.com")]
    Address,
}

impl Mailbox {
    /// The line as it was given, without spaces around it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The address alone.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The domain of the address, in lower case, in the form that DNS has.
    pub fn domain(&self) -> &str {
        &self.domain
    }
}

impl FromStr for Mailbox {
    type Err = NotAMailbox;

    fn from_str(text: &str) -> Result<Self, NotAMailbox> {
        let text = text.trim();
        let (name, address) = match text.strip_suffix('>') {
            Some(rest) => rest.rsplit_once('<').ok_or(NotAMailbox::Address)?,
            None => ("", text),
        };
        if !is_phrase(name.trim()) {
            return Err(NotAMailbox::Name);
        }
        // The crate takes any text for a display name, so it is asked about the address alone.
        let strict = Options::default().without_display_text().without_domain_literal().with_required_tld();
        let parsed = EmailAddress::parse_with_options(address, strict).map_err(|_| NotAMailbox::Address)?;
        let Ok(Host::Domain(domain)) = Host::parse(parsed.domain()) else { return Err(NotAMailbox::Address) };
        Ok(Self { text: text.to_owned(), address: address.to_owned(), domain })
    }
}

/// Whether it is a display name: nothing, words of atoms (and dots, as everybody writes them), or one quoted string.
fn is_phrase(name: &str) -> bool {
    if let Some(quoted) = name.strip_prefix('"') {
        let Some(inside) = quoted.strip_suffix('"') else { return false };
        let mut escaped = false;
        return inside.chars().all(|letter| {
            let fits = !letter.is_control() && (escaped || letter != '"');
            escaped = !escaped && letter == '\\';
            fits
        }) && !escaped;
    }
    name.chars().all(|letter| !letter.is_control() && !r#"()<>[]:;@\,""#.contains(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_is_a_name_and_an_address() {
        let cases = [
            ("Molecule AI <noreply@moleculesai.app>", "noreply@moleculesai.app", "moleculesai.app"),
            ("  noreply@moleculesai.app\n", "noreply@moleculesai.app", "moleculesai.app"),
            ("<a@b.example>", "a@b.example", "b.example"),
            (r#""Doe, \"J\"" <j.doe+x@Mail.Example.COM>"#, "j.doe+x@Mail.Example.COM", "mail.example.com"),
            ("Grüße <a@bücher.example>", "a@bücher.example", "xn--bcher-kva.example"),
            ("J. Doe<a@b.example>", "a@b.example", "b.example"),
        ];
        for (text, address, domain) in cases {
            let mailbox: Mailbox = text.parse().unwrap();
            assert_eq!(
                (mailbox.as_str(), mailbox.address(), mailbox.domain()),
                (text.trim(), address, domain)
            );
        }
    }

    #[test]
    fn anything_else_is_none() {
        let names = [
            "Doe, J <a@b.example>",
            "a@b.example <a@b.example>",
            "\"Doe <a@b.example>",
            r#""Doe\" <a@b.example>"#,
            "A <x@y.example> <a@b.example>",
            "A\r\nBcc: c@d.example\r\nX: <a@b.example>",
        ];
        for text in names {
            assert_eq!(text.parse::<Mailbox>(), Err(NotAMailbox::Name), "{text:?}");
        }
        let addresses = [
            "",
            "noreply",
            "@b.example",
            "a@",
            "a@localhost",
            "a@[127.0.0.1]",
            "a@b..example",
            "A a@b.example>",
            "a@b.example, c@d.example",
            "A <a@b.example",
            "A < a@b.example >",
            "a@b.example\r\nBcc: c@d.example",
        ];
        for text in addresses {
            assert_eq!(text.parse::<Mailbox>(), Err(NotAMailbox::Address), "{text:?}");
        }
    }
}
