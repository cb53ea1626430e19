//! Killed, stopped, or met by a second operator.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::desk::{Desk, ended, wait_until};
use crate::support::vendors::{Fault, Rule};

const ROTATE: [&str; 4] = ["rotate", "RESEND_API_KEY", "--yes", "--deploy"];

#[test]
fn after_a_kill_it_is_resumed_and_mints_no_second_key() {
    let desk = Desk::with_mail_adopted();
    desk.resend.vendor.fault(Rule::next("POST", "/api-keys", Fault::LoseReply));
    let mut child = desk.start(&ROTATE);
    wait_until(|| desk.mail_keys().len() == 2);
    child.kill().unwrap();
    child.wait().unwrap();
    let begun = Instant::now();
    let done = desk.type_(&["rotate", "resume"]).exits(0);
    assert!(done.err.contains(" holds the rotation: waiting up to 20 s, in case it died"), "{}", done.err);
    assert!(begun.elapsed() > Duration::from_secs(5), "a lease was taken from somebody alive");
    assert_eq!(desk.mail_keys().len(), 1, "exactly one key is left");
    assert!(desk.resend.is_live(&desk.in_use("RESEND_API_KEY")));
}

#[test]
fn a_second_operator_is_refused_while_the_first_is_at_work() {
    let desk = Desk::with_mail_adopted();
    desk.resend.vendor.fault(Rule::next("POST", "/emails", Fault::Delay(Duration::from_secs(15))));
    let child = desk.start(&ROTATE);
    wait_until(|| desk.in_use("RESEND_API_KEY") != desk.mail.1);
    let begun = Instant::now();
    for words in [&["rotate", "resume"][..], &["rotate", "abort"]] {
        let second = desk.type_(words).exits(4);
        assert!(second.err.contains("is being worked on by pid "), "{}", second.err);
    }
    assert!(begun.elapsed() < Duration::from_secs(14), "it was refused as soon as the lease was renewed");
    let new = desk.type_(&ROTATE).exits(4);
    assert!(new.err.contains("has an open rotation"), "{}", new.err);
    ended(&desk.operator, child).exits(0);
}

#[test]
fn ctrl_c_gives_the_lease_back_and_after_the_cut_over_there_is_no_way_back() {
    let desk = Desk::with_mail_adopted();
    desk.resend.revoke_late(1000);
    let child = desk.start(&[&ROTATE[..], &["--output", "json"]].concat());
    wait_until(|| desk.resend.vendor.count("DELETE", "/api-keys/") == 1);
    std::thread::sleep(Duration::from_millis(500));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let stopped = ended(&desk.operator, child).exits(5);
    let document = stopped.json();
    assert_eq!((&document["outcome"], &document["step"]), (&"interrupted".into(), &"confirm-dead".into()));
    assert!(stopped.hints()[0].starts_with("reseal rotate resume "), "{}", stopped.err);

    let begun = Instant::now();
    let abort = desk.type_(&["rotate", "abort", "RESEND_API_KEY"]).exits(4);
    assert!(abort.err.contains("is past its cut-over (step revoke): there is no way back"), "{}", abort.err);
    assert!(begun.elapsed() < Duration::from_secs(4), "the lease was given back");
    desk.resend.delete(&desk.mail.0);
    desk.operator.type_line(abort.hints()[0].strip_prefix("go on: ").unwrap()).exits(0);
    assert_eq!(desk.mail_keys().len(), 1);
}
