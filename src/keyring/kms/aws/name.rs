//! How AWS KMS keys are named.

use std::{fmt, str::FromStr};

/// The name of a KMS key: its ARN, its id, an alias or an alias ARN. The form is checked, existence is not.
///
/// Source: AWS KMS Developer Guide, "Key identifiers (KeyId)".
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AwsKeyName(String);

/// The text has none of the forms. Does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key ARN, an alias ARN, alias/NAME or a key id")]
pub struct NotAnAwsKeyName;

impl AwsKeyName {
    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The region that an ARN names, in which alone its key can be used.
    pub fn region(&self) -> Option<&str> {
        Some(Arn::parse(&self.0)?.region)
    }

    /// Whether this is a key ARN: the one name that always means the same key.
    pub fn is_key_arn(&self) -> bool {
        Arn::parse(&self.0).is_some_and(|arn| arn.resource.starts_with("key/"))
    }
}

impl FromStr for AwsKeyName {
    type Err = NotAnAwsKeyName;

    fn from_str(text: &str) -> Result<Self, NotAnAwsKeyName> {
        if Arn::parse(text).is_some() || is_alias(text) || is_key_id(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAnAwsKeyName)
        }
    }
}

impl fmt::Display for AwsKeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `arn:<partition>:kms:<region>:<account>:<resource>`, the resource `key/ID` or `alias/NAME`.
struct Arn<'a> {
    region: &'a str,
    resource: &'a str,
}

impl<'a> Arn<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut fields = text.splitn(6, ':');
        let is_kms = fields.next() == Some("arn")
            && fields.next().is_some_and(|partition| partition.starts_with("aws"))
            && fields.next() == Some("kms");
        let region = fields.next()?;
        let account = fields.next()?;
        let resource = fields.next()?;
        let legal = is_kms
            && !region.is_empty()
            && region.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && account.len() == 12
            && account.bytes().all(|byte| byte.is_ascii_digit())
            && (is_alias(resource) || resource.strip_prefix("key/").is_some_and(is_key_id));
        legal.then_some(Self { region, resource })
    }
}

fn is_alias(text: &str) -> bool {
    text.strip_prefix("alias/").is_some_and(|name| {
        (1..=250).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-'))
    })
}

/// A uuid, or `mrk-` and 32 hex digits for a multi-Region key.
fn is_key_id(text: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.strip_prefix("mrk-") {
        Some(id) => id.len() == 32 && is_hex(id),
        None => text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && text.split('-').all(is_hex),
    }
}
