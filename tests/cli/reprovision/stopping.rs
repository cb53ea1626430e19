//! Stopped in the middle: by a signal, by two, by none.

use std::{process::Command, time::Duration};

use super::desk::Desk;
use crate::cli::rotate::desk::{ended, wait_until};

/// What a tenant's reset asks for, and no plan.
pub(super) const RESET: &str = "/roles/neondb_owner/reset_password";

fn send(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn one_signal_lets_tenants_finish_two_stop_at_once_and_the_same_command_goes_on() {
    let desk = Desk::new(4).await;
    // So that somebody comes in between.
    desk.world.neon.set(|knobs| knobs.operation_time = Duration::from_millis(700));
    let child = desk.start(&["--concurrency", "1", "--output", "json"]);
    wait_until(|| desk.world.neon.vendor.count("POST", RESET) > 0);
    send("-INT", child.id());
    let said = ended(&desk.operator, child).exits(5);
    assert!(said.err.contains("beginning no other tenant"), "{}", said.err);
    let document = said.json();
    assert_eq!((&document["outcome"], &document["tenants"]["done"]), (&"interrupted".into(), &1.into()));
    assert_eq!(document["tenants"]["running"], 0);
    assert_eq!(said.hints(), ["reseal reprovision run --concurrency 1"]);

    let resets = desk.world.neon.vendor.count("POST", RESET);
    let child = desk.operator.start(&["reprovision", "run", "--concurrency", "1"]);
    wait_until(|| desk.world.neon.vendor.count("POST", RESET) > resets);
    send("-TERM", child.id());
    std::thread::sleep(Duration::from_millis(50));
    send("-TERM", child.id());
    let said = ended(&desk.operator, child).exits(5);
    assert!(said.err.contains("was stopped at once; it stays open and nothing is lost"), "{}", said.err);

    let resets = desk.world.neon.vendor.count("POST", RESET);
    let mut child = desk.operator.start(&["reprovision", "run", "--concurrency", "2"]);
    wait_until(|| desk.world.neon.vendor.count("POST", RESET) > resets);
    child.kill().unwrap();
    child.wait().unwrap();
    desk.world.bury().await;
    desk.world.neon.set(|knobs| knobs.operation_time = Duration::ZERO);
    let done = desk.type_(&["run"]).exits(0);
    desk.judge(&[&said, &done]).await;
}

#[tokio::test]
async fn while_one_works_another_is_refused() {
    let desk = Desk::new(2).await;
    desk.world.neon.set(|knobs| knobs.operation_time = Duration::from_millis(1500));
    let mut child = desk.start(&["--concurrency", "1"]);
    wait_until(|| desk.world.neon.vendor.count("POST", RESET) > 0);
    let other = desk.type_(&["run"]).exits(4);
    assert!(other.err.contains(" holds the run: waiting up to 20 s, in case it died\n"), "{}", other.err);
    let by = format!("is being worked on by pid {} on ", child.id());
    assert!(other.err.contains(&by), "{}", other.err);
    child.kill().unwrap();
    child.wait().unwrap();
}
