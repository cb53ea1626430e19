//! From the first line typed to the end of the old key, and what is said without a rotation.

use super::desk::{Desk, JOURNAL};

#[test]
fn a_key_is_rotated_parked_before_the_deploy_and_resumed() {
    let desk = Desk::with_mail_adopted();
    let parked = desk.type_(&["rotate", "RESEND_API_KEY", "--yes", "--output", "json"]).exits(5);
    let document = parked.json();
    assert_eq!((&document["outcome"], &document["step"]), (&"parked".into(), &"deploy".into()));
    assert_eq!((&document["number"], &document["of"]), (&6.into(), &10.into()));
    assert!(document["waiting"].as_str().unwrap().starts_with("the next deploy of molecule-cp"));
    assert!(document["audit"]["head"].is_string());
    let journal = JOURNAL.join(" ");
    assert_eq!(
        parked.hints(),
        [
            format!("reseal rotate resume {journal} RESEND_API_KEY --deploy"),
            format!("to take it back: reseal rotate abort {journal} RESEND_API_KEY"),
        ]
    );
    let lines: Vec<_> = parked.err.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(lines.len(), 6, "a line a step: {lines:?}");
    assert!(lines[2].starts_with("[ 3/10] mint done: minted "), "{lines:?}");
    assert_eq!(desk.in_use("RESEND_API_KEY"), desk.mail.1, "no machine was restarted");
    assert_eq!(desk.mail_keys().len(), 2);

    let open = desk.type_(&["rotate", "RESEND_API_KEY", "--yes"]).exits(4);
    assert!(open.err.starts_with("error: RESEND_API_KEY has an open rotation, "), "{}", open.err);
    let status = desk.operator.reseal(&["rotate", "status", "--output", "json", JOURNAL[0], JOURNAL[1]]);
    let status = status.exits(0).json();
    let rotation = &status["rotations"][0];
    assert_eq!((&rotation["phase"], &rotation["open"]), (&"parked".into(), &true.into()));
    assert_eq!((&rotation["number"], &rotation["of"]), (&6.into(), &10.into()));
    assert!(rotation["journal"].as_array().unwrap().iter().any(|record| record["event"] == "intended"));

    let done = desk.operator.type_line(parked.hints()[0]).exits(0);
    assert!(done.out.starts_with("RESEND_API_KEY is rotated. Rotation "), "{}", done.out);
    assert!(done.out.contains("the old one: seen to be refused"), "{}", done.out);
    assert!(done.out.contains("purge confirmation email failed"), "{}", done.out);
    let new = desk.in_use("RESEND_API_KEY");
    assert!(desk.resend.is_live(&new) && !desk.resend.is_live(&desk.mail.1));
    assert_eq!(desk.mail_keys().len(), 1);
    let said = [parked.out, parked.err, done.out, done.err].concat();
    assert!(!said.contains(&new), "the new key was said");
    desk.holds_none_of(&[&new, &desk.mail.1, desk.resend.admin()]);

    let none = desk.type_(&["rotate", "resume"]).exits(4);
    assert!(none.err.starts_with("error: no rotation is open\n"), "{}", none.err);
    let ended =
        desk.operator.reseal(&["rotate", "status", "RESEND_API_KEY", JOURNAL[0], JOURNAL[1]]).exits(0);
    assert!(ended.out.starts_with("RESEND_API_KEY: done since "), "{}", ended.out);
}

#[test]
fn a_rotation_is_taken_back_before_the_cut_over() {
    let desk = Desk::with_mail_adopted();
    desk.type_(&["rotate", "RESEND_API_KEY", "--yes"]).exits(5);
    let back = desk.type_(&["rotate", "abort", "--output", "json"]).exits(0).json();
    assert_eq!((&back["outcome"], &back["why"]), (&"rolled-back".into(), &"it was aborted".into()));
    assert_eq!(desk.mail_keys(), [desk.mail.0.as_str()], "what was minted is revoked");
    assert_eq!(desk.fly.secret("molecule-cp", "RESEND_API_KEY"), Some(desk.mail.1.clone()));
    assert!(desk.resend.is_live(&desk.mail.1));
}

#[test]
fn what_fails_before_the_cut_over_is_rolled_back_and_says_why() {
    let desk = Desk::new();
    let unknown = desk.type_(&["rotate", "RESEND_API_KEY", "--yes"]).exits(1);
    assert!(unknown.out.starts_with("RESEND_API_KEY is as it was before."), "{}", unknown.out);
    assert!(unknown.out.contains("is not known by its id"), "{}", unknown.out);
    assert_eq!(desk.mail_keys(), [desk.mail.0.as_str()], "nothing was minted");
}

#[test]
fn an_emergency_names_the_outage_and_revokes_first() {
    let desk = Desk::with_mail_adopted();
    let words = ["rotate", "RESEND_API_KEY", "--emergency", "--deploy"];
    let asked = desk.type_(&words).exits(4);
    assert!(
        asked.err.contains("is revoked before the new one is in place. Confirmation mails"),
        "{}",
        asked.err
    );
    assert!(
        asked.hints()[0].ends_with(" RESEND_API_KEY --deploy --emergency --confirm RESEND_API_KEY"),
        "{}",
        asked.err
    );
    desk.type_(&[&words[..], &["--confirm", "resend"]].concat()).exits(4);
    assert!(desk.resend.is_live(&desk.mail.1));
    let done = desk.operator.type_line(asked.hints()[0]).exits(0);
    let at = |step: &str| done.err.find(&format!("] {step} done")).unwrap_or_else(|| panic!("{}", done.err));
    assert!(at("revoke") < at("mint"));
    assert_eq!(desk.mail_keys().len(), 1);
    assert!(!desk.resend.is_live(&desk.mail.1));
}

#[test]
fn what_is_wrong_with_the_command_is_said_before_anything_is_asked_of_a_vendor() {
    let desk = Desk::with_mail_adopted();
    let before = desk.resend.vendor.seen().len();
    let automatic = desk.type_(&["rotate", "GITHUB_TOKEN"]).exits(0);
    assert!(automatic.out.starts_with("GITHUB_TOKEN is automatic: "), "{}", automatic.out);
    let unknown = desk.type_(&["rotate", "re_0123456789"]).exits(2);
    assert!(
        unknown
            .err
            .starts_with("error: there is no recipe for a secret of this name\nhint: one of FLY_API_TOKEN")
    );
    assert!(!unknown.err.contains("re_0123"), "{}", unknown.err);
    let strategy = desk.type_(&["rotate", "DATABASE_URL", "--strategy", "other"]).exits(2);
    assert_eq!(strategy.hints().len(), 2, "{}", strategy.err);
    desk.type_(&["rotate", "RESEND_API_KEY", "--stage", "--deploy"]).exits(2);
    desk.type_(&["rotate"]).exits(2);
    let nobody = desk.type_(&["rotate", "RESEND_API_KEY"]).exits(4);
    assert!(nobody.hints()[0].ends_with("RESEND_API_KEY --yes"), "{}", nobody.err);
    let without =
        desk.operator.reseal(&["rotate", "RESEND_API_KEY", "--yes", JOURNAL[0], JOURNAL[1]]).exits(2);
    assert!(without.err.contains("no KMS key is named"), "{}", without.err);
    let nowhere =
        desk.operator.reseal(&["rotate", "RESEND_API_KEY", "--yes", JOURNAL[2], JOURNAL[3]]).exits(2);
    assert!(nowhere.err.contains("nothing says where the journal is"), "{}", nowhere.err);
    assert_eq!(desk.resend.vendor.seen().len(), before);
}

#[test]
fn a_token_is_missed_where_a_step_needs_it() {
    let mut desk = Desk::with_mail_adopted();
    desk.operator.set("RESEAL_FLY_TOKEN", "");
    let missed = desk.type_(&["rotate", "RESEND_API_KEY", "--yes"]).exits(2);
    assert!(missed.err.contains("no access to Fly: RESEAL_FLY_TOKEN is not set"), "{}", missed.err);
    assert_eq!(desk.mail_keys().len(), 2, "it was reached after the mint");
    desk.operator.set("RESEAL_FLY_TOKEN", &desk.fly.user_token());
    desk.type_(&["rotate", "resume", "--deploy"]).exits(0);
    assert_eq!(desk.mail_keys().len(), 1);
}

#[test]
fn a_rotation_may_not_end_its_own_authority() {
    let mut desk = Desk::new();
    let (id, value) = desk.resend.key("both", false);
    desk.operator.guard(&value);
    desk.operator.file("mail", &value, 0o600);
    desk.type_(&["rotate", "adopt", "RESEND_API_KEY", "--id", &id, "--value-file", "mail"]).exits(0);
    desk.operator.set("RESEAL_RESEND_TOKEN", &value);
    let refused = desk.type_(&["rotate", "RESEND_API_KEY", "--yes"]).exits(4);
    assert!(refused.err.contains("RESEAL_RESEND_TOKEN holds the very value"), "{}", refused.err);
    let status = desk.operator.reseal(&["rotate", "status", JOURNAL[0], JOURNAL[1]]).exits(0);
    assert_eq!(status.out, "No rotation yet.\n");
}

#[test]
fn the_journal_may_not_be_in_the_database_whose_password_changes() {
    let mut desk = Desk::new();
    desk.operator.set("DATABASE_URL", "sqlite://state.db");
    let refused = desk.type_(&["rotate", "DATABASE_URL", "--yes"]).exits(4);
    assert_eq!(refused.hints(), ["name another place for it: --state-url sqlite://FILE"]);
    desk.operator.set("DATABASE_URL", "sqlite://./state.db");
    desk.type_(&["rotate", "DATABASE_URL", "--yes", "--strategy", "alternate"]).exits(4);
    assert_eq!(desk.type_(&["rotate", "status"]).exits(0).out, "No rotation yet.\n");
}
