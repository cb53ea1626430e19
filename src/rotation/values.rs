//! What a person pasted: looked at before anything is done with it.

use super::recipe::ValueKind;
use crate::{
    providers::{Mailbox, stripe},
    secret::SecretText,
};

/// Why a value was not taken. Never repeats it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WrongValue {
    #[error("nothing was given")]
    Empty,
    #[error("what was given has a space or a line break in it, or around it")]
    Spaces,
    #[error("what was given is not {0}")]
    Kind(&'static str),
    #[error("{0}")]
    Stripe(String),
    #[error("what was given is the value that is in use already")]
    Same,
}

/// The value, without the line break that ends a file; of any kind where none is given.
pub(super) fn check(
    kind: Option<ValueKind>,
    given: SecretText,
    old: Option<&SecretText>,
) -> Result<SecretText, WrongValue> {
    let text = given.expose();
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if text.trim().is_empty() {
        return Err(WrongValue::Empty);
    }
    let has_control = text.chars().any(char::is_control);
    let one_word = matches!(kind, Some(ValueKind::StripeKey | ValueKind::StripeWebhookSecret));
    let has_space = one_word && text.chars().any(char::is_whitespace);
    if has_control || has_space || text.trim() != text {
        return Err(WrongValue::Spaces);
    }
    let value = SecretText::new(text.to_owned());
    match kind {
        Some(ValueKind::StripeKey) => {
            stripe::mode(&value).map_err(|error| WrongValue::Stripe(error.to_string()))?;
        }
        Some(ValueKind::StripeWebhookSecret) if !is_webhook_secret(text) => {
            return Err(WrongValue::Kind("a webhook secret, which begins with whsec_"));
        }
        Some(ValueKind::Mailbox) if text.parse::<Mailbox>().is_err() => {
            return Err(WrongValue::Kind("an address such as: Name <name@example.com>"));
        }
        Some(ValueKind::StripeWebhookSecret | ValueKind::Mailbox) | None => {}
    }
    if old == Some(&value) { Err(WrongValue::Same) } else { Ok(value) }
}

fn is_webhook_secret(text: &str) -> bool {
    let rest = text.strip_prefix("whsec_");
    rest.is_some_and(|rest| rest.len() >= 16 && rest.bytes().all(|byte| byte.is_ascii_graphic()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(kind: ValueKind, text: &str) -> Option<WrongValue> {
        check(Some(kind), SecretText::new(text.to_owned()), None).err()
    }

    #[test]
    fn what_was_pasted_is_what_was_asked_for() {
        let key = "sk_live_0123456789abcdefghij";
        let secret = "whsec_0123456789abcdef";
        assert_eq!(wrong(ValueKind::StripeKey, &format!("{key}\n")), None);
        assert_eq!(wrong(ValueKind::StripeKey, &format!("{key}\r\n")), None);
        assert_eq!(wrong(ValueKind::StripeKey, &format!(" {key}")), Some(WrongValue::Spaces));
        assert_eq!(wrong(ValueKind::StripeKey, &format!("{key} \n")), Some(WrongValue::Spaces));
        assert_eq!(wrong(ValueKind::StripeKey, &format!("{key}\n\n")), Some(WrongValue::Spaces));
        assert_eq!(wrong(ValueKind::StripeKey, "\n"), Some(WrongValue::Empty));
        assert!(matches!(wrong(ValueKind::StripeKey, secret), Some(WrongValue::Stripe(_))));
        assert_eq!(wrong(ValueKind::StripeWebhookSecret, secret), None);
        assert!(matches!(wrong(ValueKind::StripeWebhookSecret, key), Some(WrongValue::Kind(_))));
        assert_eq!(wrong(ValueKind::Mailbox, "Molecule AI <noreply@moleculesai.app>"), None);
        assert!(matches!(wrong(ValueKind::Mailbox, "noreply at moleculesai.app"), Some(WrongValue::Kind(_))));
        let same = SecretText::new(key.to_owned());
        assert_eq!(
            check(Some(ValueKind::StripeKey), SecretText::new(format!("{key}\n")), Some(&same)).err(),
            Some(WrongValue::Same)
        );
    }
}
