//! What a person has to give: from a file or standard input where there is no terminal.

use super::desk::Desk;

fn begun() -> Desk {
    let desk = Desk::new();
    desk.operator.file("billing", &desk.billing, 0o600);
    desk.type_(&["rotate", "adopt", "STRIPE_API_KEY", "--value-file", "billing"]).exits(0);
    desk
}

#[test]
fn without_a_terminal_it_parks_and_goes_on_with_a_file() {
    let desk = begun();
    let parked = desk.type_(&["rotate", "STRIPE_API_KEY", "--yes", "--deploy"]).exits(5);
    assert!(parked.out.contains("waits at step 1 of 8, roll"), "{}", parked.out);
    assert!(parked.out.contains("in the Stripe dashboard"), "{}", parked.out);
    assert!(parked.hints()[0].ends_with("STRIPE_API_KEY --value-file FILE"), "{}", parked.err);

    // What was pasted is not what was asked for, each in its way.
    let other_account = desk.stripe.key("sk_live_", "acct_2");
    let new = desk.stripe.key("sk_live_", "acct_1");
    for (name, content, problem) in [
        ("kind", "whsec_0123456789abcdef0123", "this looks like"),
        ("mail", desk.mail.1.as_str(), "does not look like a secret key"),
        ("spaces", &format!(" {new}\n"), "has a space or a line break"),
        ("empty", "\n", "nothing was given"),
        ("same", &format!("{}\n", desk.billing), "in use already"),
    ] {
        desk.operator.file(name, content, 0o600);
        let again = desk.type_(&["rotate", "resume", "--value-file", name]).exits(5);
        let said = again.out.replace("\n    ", " ");
        assert!(said.contains(problem), "{name}: {said}");
    }
    desk.operator.file("open", &new, 0o644);
    let open = desk.type_(&["rotate", "resume", "--value-file", "open"]).exits(4);
    assert!(open.err.contains("open is open to others"), "{}", open.err);

    desk.operator.file("other", &other_account, 0o600);
    let other = desk.type_(&["rotate", "resume", "--value-file", "other"]).exits(1);
    assert!(other.out.contains("another Stripe account"), "{}", other.out);
    assert_eq!(desk.in_use("STRIPE_API_KEY"), desk.billing);
}

#[test]
fn a_pasted_key_may_end_in_a_line_break() {
    let mut desk = begun();
    let new = desk.stripe.key("sk_live_", "acct_1");
    desk.operator.guard(&new);
    desk.operator.file("new", &format!("{new}\n"), 0o600);
    let child = desk.start(&["rotate", "STRIPE_API_KEY", "--yes", "--deploy", "--value-file", "new"]);
    // Stripe ends the old key when its time is over.
    super::desk::wait_until(|| desk.fly.secret("molecule-cp", "STRIPE_API_KEY").as_ref() == Some(&new));
    desk.stripe.expire(&desk.billing, -1);
    let done = super::desk::ended(&desk.operator, child).exits(0);
    assert!(done.out.contains("the old one: seen to be refused"), "{}", done.out);
    assert_eq!(desk.in_use("STRIPE_API_KEY"), new);
    assert_eq!(desk.control_plane.vendor.count("POST", "/cp/billing/checkout"), 1);
    desk.holds_none_of(&[&new, &desk.billing]);
}

#[test]
fn a_value_comes_through_standard_input() {
    let mut desk = begun();
    let new = desk.stripe.key("sk_live_", "acct_2");
    desk.operator.guard(&new);
    let words =
        [&["rotate", "STRIPE_API_KEY", "--yes", "--value-file", "-"], &super::desk::JOURNAL[..]].concat();
    let output = desk.operator.pipe(&words, format!("{new}\n").as_bytes());
    assert_eq!(output.status.code(), Some(1), "it was read, and found to be another account's");
    assert!(String::from_utf8(output.stdout).unwrap().contains("another Stripe account"));
}

/// What is accepted is recorded, and what was pasted may be a secret.
#[test]
fn only_what_has_a_check_can_be_accepted_without_one() {
    let desk = Desk::new();
    for line in [["rotate", "RESEND_API_KEY", "--yes"].as_slice(), &["rotate", "resume"]] {
        let typed = [line, &["--accept-unverified", "re_a-key-that-was-pasted"]].concat();
        let refused = desk.type_(&typed).exits(2);
        assert!(refused.err.contains("the name of nothing that could be checked"), "{}", refused.err);
        assert!(!refused.err.contains("re_a-key"), "{}", refused.err);
    }
    let status = desk.type_(&["rotate", "status", "--output", "json"]);
    assert!(!status.out.contains("re_a-key"), "{}", status.out);
}
