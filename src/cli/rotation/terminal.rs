//! Somebody at a terminal: asked on standard error, answers on standard input.
//!
//! What is typed without echo goes into memory that is wiped. Echo is switched off and on here and not in the thread
//! that reads, so that it is on again whichever way the question ends: dropping the future of an answer is enough.

use std::io::{self, IsTerminal, stderr, stdin};

use reseal::secret::SecretText;
use rustix::{
    io::{read, retry_on_intr},
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr},
};
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

/// The longest line that a terminal gives, in bytes.
const LONGEST_LINE: usize = 4096;

/// Whether there is somebody.
pub(in crate::cli) fn is_there() -> bool {
    stdin().is_terminal() && stderr().is_terminal()
}

/// The line that is typed as an answer; `None` at the end of input.
pub(in crate::cli) async fn ask(question: &str) -> io::Result<Option<SecretText>> {
    print(question)?;
    spawn_blocking(line).await?
}

/// The same, without echo.
pub(super) async fn ask_hidden(question: &str) -> io::Result<Option<SecretText>> {
    print(question)?;
    let _silence = Silence::begin()?;
    spawn_blocking(line).await?
}

/// Whether the answer is yes.
pub(in crate::cli) async fn agrees(question: &str) -> io::Result<bool> {
    let answer = ask(&format!("{question} [y/N] ")).await?;
    Ok(answer.is_some_and(|answer| ["y", "yes"].contains(&answer.expose().trim().to_lowercase().as_str())))
}

fn print(question: &str) -> io::Result<()> {
    use io::Write;
    let mut stderr = stderr().lock();
    write!(stderr, "{question}")?;
    stderr.flush()
}

fn line() -> io::Result<Option<SecretText>> {
    let mut buffer = Zeroizing::new(vec![0; LONGEST_LINE]);
    let length = retry_on_intr(|| read(stdin(), &mut buffer[..]))?;
    if length == 0 {
        return Ok(None);
    }
    let text = std::str::from_utf8(&buffer[..length]).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Some(SecretText::new(text.strip_suffix('\n').unwrap_or(text).to_owned())))
}

/// Until it is dropped, nothing that is typed is shown.
struct Silence(Termios);

impl Silence {
    /// What was typed before the question is forgotten: it was not an answer.
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO;
        silent.local_modes |= LocalModes::ECHONL;
        tcsetattr(stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}
