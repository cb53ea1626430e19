//! `rotate adopt`: what is in use becomes known, and only that.

use super::desk::{APP, Desk};

#[test]
fn only_what_is_in_use_is_adopted() {
    let mut desk = Desk::new();
    let nothing = desk.type_(&["rotate", "adopt", "RESEND_API_KEY"]).exits(4);
    assert!(nothing.err.contains("nothing was said of the RESEND_API_KEY in use"), "{}", nothing.err);
    let (gone, dead) = desk.resend.key("gone", true);
    desk.operator.guard(&dead);
    desk.operator.file("dead", &dead, 0o600);
    desk.resend.delete(&gone);
    let refused = desk.type_(&["rotate", "adopt", "RESEND_API_KEY", "--value-file", "dead"]).exits(4);
    assert!(refused.err.contains("the value that was given is refused"), "{}", refused.err);
    let no_ids = desk.type_(&["rotate", "adopt", "STRIPE_API_KEY", "--id", "sk_1"]).exits(4);
    assert!(no_ids.err.contains("have no ids"), "{}", no_ids.err);
    desk.type_(&["rotate", "adopt", "GITHUB_TOKEN", "--id", "1"]).exits(4);
    let key = desk.type_(&["rotate", "adopt", "SECRETS_ENCRYPTION_KEY", "--from-machine"]).exits(4);
    assert!(key.err.contains("no SECRETS_ENCRYPTION_KEY") || key.err.contains("not kept"), "{}", key.err);

    let adopted = desk
        .type_(&[
            "rotate",
            "adopt",
            "RESEND_API_KEY",
            "--id",
            &desk.mail.0,
            "--from-machine",
            "--output",
            "json",
        ])
        .exits(0);
    let document = adopted.json();
    assert_eq!((&document["id"], &document["value_is_known"]), (&desk.mail.0.as_str().into(), &true.into()));
    desk.holds_none_of(&[&desk.mail.1]);

    // A machine that still runs with a dead key has nothing to give.
    let (late, value) = desk.resend.key("late", true);
    desk.fly.set(APP, "RESEND_API_KEY", &value);
    desk.operator.guard(&value);
    desk.resend.delete(&late);
    desk.type_(&["rotate", "adopt", "RESEND_API_KEY", "--from-machine"]).exits(4);
}

#[test]
fn without_the_value_the_end_is_accepted_and_not_confirmed() {
    let desk = Desk::new();
    let adopted = desk.type_(&["rotate", "adopt", "RESEND_API_KEY", "--id", &desk.mail.0]).exits(0);
    assert!(adopted.out.contains("its end will not be confirmed"), "{}", adopted.out);
    let done = desk.type_(&["rotate", "RESEND_API_KEY", "--yes", "--deploy", "--output", "json"]).exits(3);
    let document = done.json();
    assert_eq!(
        (&document["outcome"], &document["old_confirmed_dead"]),
        (&"unconfirmed".into(), &false.into())
    );
    assert!(!desk.resend.is_live(&desk.mail.1));
    desk.type_(&["rotate", "RESEND_API_KEY", "--yes"]).exits(5);
    let open = desk.type_(&["rotate", "adopt", "RESEND_API_KEY", "--id", &desk.mail.0]).exits(4);
    assert!(open.err.contains("is open, and knows its credentials"), "{}", open.err);
}
