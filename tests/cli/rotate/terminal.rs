//! At a terminal: a pseudo-terminal of `script`, with a shell that says afterwards how the terminal was left.

use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

use super::desk::{Desk, JOURNAL, wait_until};
use crate::cli::operator::Operator;

/// Somebody who types into a terminal and sees what is on it.
pub(crate) struct Typist {
    child: Child,
    keyboard: ChildStdin,
    screen: Arc<Mutex<String>>,
}

impl Typist {
    /// Types a command about the journal.
    fn start(desk: &Desk, words: &[&str]) -> Self {
        Self::at(&desk.operator, &[words, &JOURNAL].concat())
    }

    /// Types a command, and afterwards asks how it ended and whether the terminal shows what is typed.
    pub(crate) fn at(operator: &Operator, words: &[&str]) -> Self {
        let line = [&[env!("CARGO_BIN_EXE_reseal")], words].concat().join(" ");
        let shell = format!(
            "trap : INT; stty rows 40 cols 120; sh -c 'echo pid=$$; exec {line}'; echo code=$?; stty -a"
        );
        let mut child = Command::new("script")
            .args(["-qfec", &shell, "/dev/null"])
            .current_dir(operator.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("SHELL", "/bin/sh")
            .envs(operator.environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (screen, mut output) = (Arc::<Mutex<String>>::default(), child.stdout.take().unwrap());
        let shown = Arc::clone(&screen);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        let keyboard = child.stdin.take().unwrap();
        Self { child, keyboard, screen }
    }

    fn shows(&self, text: &str) -> bool {
        self.screen.lock().unwrap().contains(text)
    }

    #[track_caller]
    pub(crate) fn sees(&self, text: &str) {
        wait_until(|| self.shows(text));
    }

    pub(crate) fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// The process id of the command.
    fn pid(&self) -> Pid {
        self.sees("pid=");
        let screen = self.screen.lock().unwrap();
        let pid = screen.split("pid=").nth(1).unwrap().lines().next().unwrap().trim();
        Pid::from_raw(pid.parse().unwrap()).unwrap()
    }

    /// All that was on the screen, when the command has ended; the terminal shows again what is typed.
    #[track_caller]
    pub(crate) fn leaves(mut self, code: i32) -> String {
        wait_until(|| self.shows("code=") && (self.shows(" echo ") || self.shows("-echo ")));
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let screen = self.screen.lock().unwrap().clone();
        assert!(screen.contains(&format!("code={code}\r")), "{screen}");
        assert!(!screen.contains("-echo "), "the terminal was left without echo: {screen}");
        assert!(!screen.contains("-icanon "), "the terminal was left raw: {screen}");
        screen
    }
}

fn billing() -> Desk {
    let desk = Desk::new();
    desk.operator.file("billing", &desk.billing, 0o600);
    desk.type_(&["rotate", "adopt", "STRIPE_API_KEY", "--value-file", "billing"]).exits(0);
    desk
}

#[test]
fn ctrl_c_at_a_prompt_leaves_a_terminal_that_shows_what_is_typed() {
    let desk = billing();
    let mut typist = Typist::start(&desk, &["rotate", "STRIPE_API_KEY"]);
    typist.sees("Rotate STRIPE_API_KEY now? [y/N]");
    typist.types("y\n");
    typist.sees("value (not shown): ");
    typist.types("\x03");
    let screen = typist.leaves(5);
    assert!(screen.contains("was stopped at step roll; it stays open"), "{screen}");
    assert!(screen.contains("hint: reseal rotate resume "), "{screen}");

    // The lease was given back: the next one asks at once. A signal from elsewhere does the same.
    for signal in [Signal::INT, Signal::TERM] {
        let typist = Typist::start(&desk, &["rotate", "resume"]);
        typist.sees("value (not shown): ");
        kill_process(typist.pid(), signal).unwrap();
        let screen = typist.leaves(5);
        assert!(!screen.contains("holds the rotation"), "{screen}");
    }
}

#[test]
fn what_is_pasted_is_not_shown_and_asked_for_again_when_it_is_wrong() {
    let desk = billing();
    let (new, wrong) = (desk.stripe.key("sk_live_", "acct_2"), "whsec_0123456789abcdef0123");
    let mut typist = Typist::start(&desk, &["rotate", "STRIPE_API_KEY"]);
    typist.sees("Rotate STRIPE_API_KEY now? [y/N]");
    typist.types("y\n");
    typist.sees("value (not shown): ");
    typist.types(&format!("{wrong}\n"));
    typist.sees("not taken: ");
    wait_until(|| typist.screen.lock().unwrap().matches("value (not shown): ").count() == 2);
    typist.types(&format!("{new}\n"));
    let screen = typist.leaves(1);
    assert!(screen.contains("another Stripe account"), "{screen}");
    assert!(!screen.contains(&new) && !screen.contains(wrong), "{screen}");
    assert!(screen.contains("1. roll: Stripe dashboard"), "the steps were shown: {screen}");
}

#[test]
fn nothing_begins_without_a_yes() {
    let desk = billing();
    let mut typist = Typist::start(&desk, &["rotate", "STRIPE_API_KEY"]);
    typist.sees("[y/N]");
    typist.types("n\n");
    let screen = typist.leaves(4);
    assert!(screen.contains("is not rotated: nobody said yes"), "{screen}");
    let mut typist = Typist::start(&desk, &["rotate", "STRIPE_API_KEY", "--emergency"]);
    typist.sees("Type STRIPE_API_KEY to go on: ");
    typist.types("yes\n");
    typist.leaves(4);
    assert!(desk.type_(&["rotate", "resume"]).exits(4).err.contains("no rotation is open"));
}

#[test]
fn the_credential_in_use_is_chosen_from_the_vendors_list() {
    let desk = Desk::new();
    let mut typist = Typist::start(&desk, &["rotate", "adopt", "RESEND_API_KEY"]);
    typist.sees("Which one is in use? [1-2, nothing if none is] ");
    let number = usize::from(!typist.shows(&format!("1. {}", desk.mail.0))) + 1;
    typist.types(&format!("{number}\n"));
    typist.sees("The RESEND_API_KEY in use (not shown; nothing if it is not known): ");
    typist.types(&format!("{}\n", desk.mail.1));
    let screen = typist.leaves(0);
    assert!(
        screen.contains(&format!("RESEND_API_KEY in use: {}, and its value is kept sealed.", desk.mail.0))
    );
    assert!(!screen.contains(&desk.mail.1), "{screen}");
}
