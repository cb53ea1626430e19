//! Answers: to standard output, once, when all is done.

use std::{io, process::ExitCode};

use reseal::secret::Plaintext;
use serde_json::Value;

use super::stdio;

/// How the process ends: a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// Finished, and something needs attention: values in quarantine, or failing verify.
    Attention,
    /// Refused: a precondition does not hold.
    Refused,
    /// Stopped early; the same command goes on.
    Resumable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Attention => 3,
            Exit::Refused => 4,
            Exit::Resumable => 5,
        })
    }
}

/// Who reads the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// A person.
    Human,
    /// A program: one JSON document.
    Json,
}

/// What a command has to say.
pub(super) enum Answer {
    /// The same, for a person and for a program, and what to type next.
    Report { exit: Exit, human: String, json: Value, hints: Vec<String> },
    /// Bytes, as they are.
    Bytes(Vec<u8>),
    /// An opened value or a key, as it is.
    Plaintext(Plaintext),
    /// All is said already.
    Nothing,
}

impl Answer {
    /// Gives the answer.
    pub(super) fn give(self, output: Output) -> Exit {
        let (exit, written, hints) = match self {
            Self::Report { exit, human, json, hints } => {
                let text = match output {
                    Output::Human => human,
                    Output::Json => format!("{json}\n"),
                };
                (exit, stdio::answer(text.as_bytes()), hints)
            }
            Self::Bytes(bytes) => (Exit::Done, stdio::answer(&bytes), Vec::new()),
            Self::Plaintext(plaintext) => (Exit::Done, stdio::answer(plaintext.expose()), Vec::new()),
            Self::Nothing => return Exit::Done,
        };
        if let Err(error) = written
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            stdio::note(format_args!("error: cannot write the answer: {}", error.kind()));
            return Exit::Failed;
        }
        for hint in hints {
            stdio::note(format_args!("hint: {hint}"));
        }
        exit
    }
}
