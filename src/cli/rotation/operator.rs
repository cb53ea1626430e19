//! The person who runs a rotation: a value given with the command first, then whoever is at the terminal.

use std::{io, path::Path, sync::Mutex};

use async_trait::async_trait;
use reseal::{
    keyring::private_file,
    rotation::{
        Operator,
        recipe::{Ask, ValueKind},
    },
    secret::SecretText,
};

use super::{screen::Screen, terminal};
use crate::cli::{Call, Fault, stdio};

/// The longest value that is read, in bytes.
const LONGEST_VALUE: usize = 16 * 1024;

/// Answers what a rotation asks.
pub(super) struct Person<'a> {
    given: Mutex<Option<SecretText>>,
    screen: &'a Screen,
}

impl<'a> Person<'a> {
    /// With the value of `--value-file`, which answers the first question for one.
    pub(super) fn new(given: Option<SecretText>, screen: &'a Screen) -> Self {
        Self { given: Mutex::new(given), screen }
    }
}

#[async_trait]
impl Operator for Person<'_> {
    async fn give(&self, ask: &Ask, problem: Option<&str>) -> Option<SecretText> {
        let given = self.given.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if given.is_some() || !terminal::is_there() {
            return given;
        }
        self.screen.clear();
        if let Some(problem) = problem {
            stdio::note(format_args!("not taken: {problem}"));
        }
        stdio::note(format_args!("{}", stdio::wrapped(ask.how, 0).trim_end()));
        let answer = match ask.value {
            ValueKind::Mailbox => terminal::ask("address: ").await,
            ValueKind::StripeKey | ValueKind::StripeWebhookSecret => {
                terminal::ask_hidden("value (not shown): ").await
            }
        };
        answer.ok().flatten()
    }

    async fn confirm(&self, what: &str) -> Option<bool> {
        if !terminal::is_there() {
            return None;
        }
        self.screen.clear();
        stdio::note(format_args!("{}", stdio::wrapped(what, 0).trim_end()));
        terminal::agrees("Is that so?").await.ok()
    }
}

/// The value that `--value-file` names: in a file that is not open to others, or on standard input.
pub(super) fn given(call: &Call) -> Result<Option<SecretText>, Fault> {
    let Some(path) = call.args.get_one::<String>("value-file") else { return Ok(None) };
    let not_text = || Fault::usage("--value-file does not hold text");
    let text = if path == "-" {
        let content = stdio::read(LONGEST_VALUE).map_err(|error: io::Error| {
            Fault::failed(format!("cannot read standard input: {}", error.kind()))
        })?;
        let content = content.ok_or_else(|| Fault::usage("standard input is too long for a value"))?;
        std::str::from_utf8(content.expose()).map_err(|_| not_text())?.to_owned()
    } else {
        let content = private_file::read(Path::new(path), LONGEST_VALUE)
            .map_err(|error| Fault::refused(error.to_string()))?;
        std::str::from_utf8(&content).map_err(|_| not_text())?.to_owned()
    };
    Ok(Some(SecretText::new(text)))
}
