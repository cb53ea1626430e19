//! The session that docs/reprovision.md shows, made anew: canaries, a run that is killed, and a tenant without room.
//!
//!     cargo test --release -- --ignored --nocapture a_recorded_reprovisioning

use std::{
    io::{Write, stdout},
    time::Duration,
};

use super::{desk::Desk, stopping::RESET};
use crate::cli::rotate::desk::wait_until;

fn print(text: &str) {
    stdout().write_all(text.as_bytes()).unwrap();
}

/// Types `line`, and shows it with what was answered.
fn show(desk: &Desk, line: &str, code: i32) {
    let said = desk.operator.type_line(line).exits(code);
    let (hints, progress): (Vec<_>, Vec<_>) = said.err.lines().partition(|line| line.starts_with("hint: "));
    let lines = progress.into_iter().chain(said.out.lines()).chain(hints);
    print(&format!("$ {line}\n{}\n", lines.map(|line| format!("{line}\n")).collect::<String>()));
}

#[tokio::test]
#[ignore = "prints what docs/reprovision.md shows"]
async fn a_recorded_reprovisioning() {
    let desk = Desk::new(6).await;
    desk.world.neon.sql_role(&desk.world.tenants[4].home.branch, "intruder");
    show(&desk, "reseal reprovision plan --first org-005 --canary 1 --pause", 4);
    let accepted = "--accept-unrotated NEON_API_KEY --accept-unrotated TENANT_REDIS_URL";
    show(&desk, &format!("reseal reprovision plan --first org-005 --canary 1 --pause {accepted}"), 0);
    show(&desk, &format!("reseal reprovision run --first org-005 --canary 1 --pause {accepted} --yes"), 5);
    desk.world.neon.set(|knobs| knobs.operation_time = Duration::from_millis(700));
    let resets = || desk.world.neon.vendor.count("POST", RESET);
    let before = resets();
    let line = "reseal reprovision run --concurrency 2";
    let words: Vec<_> = line.split(' ').skip(1).collect();
    let mut child = desk.operator.start(&words);
    wait_until(|| resets() > before + 3);
    child.kill().unwrap();
    let said = child.wait_with_output().unwrap();
    print(&format!("$ {line}\n{}Killed\n\n", String::from_utf8(said.stderr).unwrap()));
    desk.world.neon.set(|knobs| knobs.operation_time = Duration::ZERO);
    show(&desk, "reseal reprovision status --no-providers", 3);
    desk.world.fly.fill("fra", 1, 422);
    show(&desk, line, 3);
    show(&desk, "reseal reprovision run --certificate reprovisioned.json", 0);
    show(&desk, "reseal reprovision status", 0);
}
