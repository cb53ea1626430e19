//! What a provider answers. It may hold a credential that nobody else has.

use std::{fmt, time::Duration};

use reqwest::{
    Response, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

use super::Rules;
use crate::providers::ProviderError;

/// The longest reply that is read, in bytes.
const LONGEST: usize = 8 << 20;

/// A reply. Its body may hold live credentials: it is wiped on drop and never shown.
pub struct Reply {
    rules: Rules,
    call: &'static str,
    status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    body: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({}, …)", self.status.as_u16())
    }
}

/// Why there is no reply.
pub(super) enum Unread {
    /// The connection was lost on the way.
    Lost(reqwest::Error),
    /// It is longer than any that is expected.
    TooLong,
}

impl Reply {
    /// Reads a response to its end.
    pub(super) async fn read(
        rules: Rules,
        call: &'static str,
        mut response: Response,
    ) -> Result<Self, Unread> {
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        let announced = response.content_length().and_then(|length| usize::try_from(length).ok());
        let mut body = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(4096).min(LONGEST)));
        while let Some(chunk) = response.chunk().await.map_err(Unread::Lost)? {
            if body.len() + chunk.len() > LONGEST {
                return Err(Unread::TooLong);
            }
            append(&mut body, &chunk);
        }
        Ok(Self { rules, call, status, retry_after, body })
    }

    /// Its status.
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// Itself, when its status says success.
    ///
    /// # Errors
    /// [`ProviderError::Unauthorized`] or [`ProviderError::Refused`].
    pub fn success(self) -> Result<Self, ProviderError> {
        if self.status.is_success() { Ok(self) } else { Err(self.refusal()) }
    }

    /// What its status says, as an error.
    pub fn refusal(&self) -> ProviderError {
        let (provider, call, status) = (self.rules.provider, self.call, self.status());
        let code = self.code();
        match status {
            401 | 403 => ProviderError::Unauthorized { provider, call, status, code },
            _ => ProviderError::Refused { provider, call, status, code },
        }
    }

    /// The provider's code in the body of an error, if there is one that looks like a code and nothing else.
    pub fn code(&self) -> Option<String> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        let looks_like_one = |text: &&str| {
            (1..=48).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_lowercase() || b"_-.".contains(&byte))
        };
        self.rules
            .codes
            .iter()
            .find_map(|pointer| body.pointer(pointer)?.as_str().filter(looks_like_one))
            .map(str::to_owned)
    }

    /// Whether the body has this text anywhere: to tell refusals apart that have no code.
    pub fn mentions(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(text)
    }

    /// The body, read as JSON.
    ///
    /// # Errors
    /// [`ProviderError::Unexpected`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ProviderError> {
        serde_json::from_slice(&self.body)
            .map_err(|_| self.unexpected("it is not the JSON that is documented"))
    }

    /// The error for a reply that lacks something.
    pub fn unexpected(&self, what: &'static str) -> ProviderError {
        ProviderError::Unexpected { provider: self.rules.provider, call: self.call, what }
    }
}

/// Appends to a body that may hold credentials: one that has to grow leaves no copy where it was.
fn append(body: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) {
    let length = body.len() + chunk.len();
    if length > body.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(length.max(2 * body.capacity())));
        larger.extend_from_slice(body);
        *body = larger;
    }
    body.extend_from_slice(chunk);
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_grows_is_whole() {
        let mut body = Zeroizing::new(Vec::with_capacity(2));
        for chunk in [&b"ab"[..], b"", b"c", b"defghijk"] {
            append(&mut body, chunk);
        }
        assert_eq!(*body, b"abcdefghijk");
    }
}
