//! The session that docs/rotation.md shows, made anew: a rotation of FLY_API_TOKEN that is killed half way.
//!
//!     cargo test --release -- --ignored --nocapture a_recorded_session

use std::io::{Write, stdout};

use super::{
    desk::{Desk, JOURNAL, wait_until},
    vendors::Published,
};

/// Types `line`, and shows it with what was answered.
fn show(desk: &Desk, line: &str, code: i32) {
    let said = desk.operator.type_line(line).exits(code);
    let shown = format!("$ {line}\n{}{}\n", said.err, said.out);
    stdout().write_all(shown.as_bytes()).unwrap();
}

#[test]
#[ignore = "prints what docs/rotation.md shows"]
fn a_recorded_session() {
    let Published { mut desk, github, id, old, .. } = Published::new();
    desk.operator.set("RESEAL_STATE_URL", JOURNAL[1]);
    desk.operator.set("RESEAL_KMS", JOURNAL[3]);
    show(&desk, &format!("reseal rotate adopt FLY_API_TOKEN --id {id} --from-machine"), 0);
    // Runs take a while here, so that it can be killed while one is under way.
    github.take(3, 8);
    let line = "reseal rotate FLY_API_TOKEN --yes";
    let words: Vec<_> = line.split(' ').skip(1).collect();
    let mut child = desk.operator.start(&words);
    wait_until(|| !github.runs().is_empty());
    child.kill().unwrap();
    let said = child.wait_with_output().unwrap();
    let shown = format!("$ {line}\n{}Killed\n\n", String::from_utf8(said.stderr).unwrap());
    stdout().write_all(shown.as_bytes()).unwrap();
    assert_ne!(github.secret("FLY_API_TOKEN"), Some(old.clone()));
    show(&desk, "reseal rotate status", 0);
    show(&desk, "reseal rotate resume", 0);
    show(&desk, "reseal secrets list", 0);
    assert!(!desk.fly.is_live(&old));
}
