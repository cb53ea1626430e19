//! GitHub: secrets of Actions, and the runs that use them.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use reseal::{
    providers::{
        Location, Observed, Outcome, ProviderError,
        github::{ActionsSecret, Conclusion, GitHub, RunState, Workflow},
    },
    secret::SecretText,
};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::at_hand::{PATIENCE, manner, secret};
use crate::support::{
    python,
    vendors::{
        Fault, Rule,
        github::{GitHub as StandIn, REPOSITORY},
    },
};

const FILE: &str = "publish-platform-image.yml";

/// A stand-in in which a run succeeds when the token it took is `good`.
fn start() -> StandIn {
    StandIn::start(&[FILE], |secrets| secrets.get("FLY_API_TOKEN").is_some_and(|token| token == "good"))
}

fn client(stand_in: &StandIn) -> GitHub {
    GitHub::new(
        stand_in.vendor.url(),
        Arc::new(secret(&stand_in.token())),
        REPOSITORY.parse().unwrap(),
        manner(),
    )
    .unwrap()
}

async fn end(workflow: &Workflow, run: u64) -> Conclusion {
    let ended = PATIENCE.until(async || {
        Ok::<_, ProviderError>(match workflow.state(run).await? {
            RunState::Underway => None,
            RunState::Ended(conclusion) => Some(conclusion),
        })
    });
    ended.await.unwrap().expect("it ends")
}

#[tokio::test]
async fn a_secret_arrives_sealed_and_can_only_be_told_by_its_time() {
    let stand_in = start();
    let location = ActionsSecret::new(&client(&stand_in), "FLY_API_TOKEN");
    assert_eq!(location.observe().await.unwrap(), Observed::Absent);
    location.write(&secret("first")).await.unwrap();
    assert_eq!(stand_in.secret("FLY_API_TOKEN").unwrap(), "first");
    let Observed::Written { updated: Some(updated), digest: None } = location.observe().await.unwrap() else {
        panic!("it was written")
    };
    let age = OffsetDateTime::now_utc() - OffsetDateTime::parse(&updated, &Rfc3339).unwrap();
    assert!(age < Duration::MINUTE, "{updated}");

    stand_in.vendor.fault(Rule::next("PUT", "/secrets", Fault::LoseReply));
    location.write(&secret("second")).await.unwrap();
    assert_eq!(stand_in.secret("FLY_API_TOKEN").unwrap(), "second");

    stand_in.vendor.fault(Rule::next("DELETE", "/secrets", Fault::Twice));
    location.remove().await.unwrap();
    location.remove().await.unwrap();
    assert_eq!(location.observe().await.unwrap(), Observed::Absent);
}

#[tokio::test]
async fn libsodium_opens_what_was_sealed() {
    const OPEN: &str = "
import base64, sys
from nacl.public import PrivateKey, SealedBox
key, sealed = (base64.b64decode(line) for line in sys.stdin)
sys.stdout.buffer.write(SealedBox(PrivateKey(key)).decrypt(sealed))
";
    let stand_in = start();
    let location = ActionsSecret::new(&client(&stand_in), "FLY_API_TOKEN");
    for value in ["", "FlyV1 fm2_abc,fm2_def", "umläute\n", &"x".repeat(48 * 1024)] {
        location.write(&secret(value)).await.unwrap();
        let (key, sealed) = stand_in.last_sealed();
        let mut child = Command::new(python())
            .args(["-c", OPEN])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = format!("{}\n{}\n", BASE64_STANDARD.encode(key), BASE64_STANDARD.encode(sealed));
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert!(output.stdout == value.as_bytes(), "a value of {} bytes", value.len());
    }
}

#[tokio::test]
async fn a_key_that_was_replaced_is_read_once_more() {
    let stand_in = start();
    let location = ActionsSecret::new(&client(&stand_in), "FLY_API_TOKEN");
    stand_in.replace_key();
    location.write(&secret("good")).await.unwrap();
    assert_eq!(stand_in.secret("FLY_API_TOKEN").unwrap(), "good");
    assert_eq!(stand_in.vendor.count("PUT", "/secrets"), 2);

    stand_in.vendor.fault(Rule::every("PUT", "/secrets", Fault::Refuse(422, "{}")));
    let error = location.write(&secret("bad")).await.unwrap_err();
    assert_eq!(error.to_string(), "GitHub refused set the secret: 422");
    assert_eq!(stand_in.vendor.count("PUT", "/secrets"), 3, "the key was the same: there is nothing to try");
    assert_eq!(stand_in.secret("FLY_API_TOKEN").unwrap(), "good");
}

#[tokio::test]
async fn a_dead_credential_and_one_that_asks_too_much_are_told_apart() {
    let stand_in = start();
    let github = client(&stand_in);
    let location = ActionsSecret::new(&github, "FLY_API_TOKEN");
    let limited = Fault::Refuse(403, r#"{"message":"You have exceeded a secondary rate limit."}"#);
    stand_in.vendor.fault(Rule::next("GET", "/public-key", limited));
    location.write(&secret("good")).await.unwrap();

    stand_in.revoke();
    let error = location.write(&secret("precious")).await.unwrap_err();
    assert!(matches!(error, ProviderError::Unauthorized { status: 401, .. }));
    let shown = format!("{error} {error:?} {github:?} {location:?}");
    assert!(!shown.contains("precious") && !shown.contains("github_pat_"), "{shown}");
    assert_eq!(stand_in.secret("FLY_API_TOKEN").unwrap(), "good");
}

#[tokio::test]
async fn a_workflow_is_there_or_not() {
    let stand_in = start();
    let github = client(&stand_in);
    let workflow = Workflow::new(&github, FILE);
    assert!(workflow.exists().await.unwrap());
    assert!(!Workflow::new(&github, "nothing.yml").exists().await.unwrap());
    stand_in.disable(FILE);
    assert!(!workflow.exists().await.unwrap());
    let error = workflow.dispatch("main").await.unwrap_err();
    assert!(matches!(error, ProviderError::Refused { status: 422, .. }));
}

#[tokio::test]
async fn a_run_proves_the_secret_that_it_took_when_it_started() {
    let stand_in = start();
    let github = client(&stand_in);
    let workflow = Workflow::new(&github, FILE);
    let location = ActionsSecret::new(&github, "FLY_API_TOKEN");
    stand_in.set("FLY_API_TOKEN", "bad");
    stand_in.take(0, 2);
    let first = workflow.dispatch("main").await.unwrap().run_id.unwrap();
    assert_eq!(workflow.state(first).await.unwrap(), RunState::Underway);
    // It has begun: what is written now comes too late for it.
    location.write(&SecretText::new("good".into())).await.unwrap();
    assert_eq!(end(&workflow, first).await, Conclusion::Other("failure"));
    let second = workflow.dispatch("main").await.unwrap().run_id.unwrap();
    assert_eq!(end(&workflow, second).await, Conclusion::Success);
    let ended = stand_in.ended();
    let taken = |n: usize| (ended[n].0, ended[n].1, ended[n].2["FLY_API_TOKEN"].as_str());
    assert_eq!([taken(0), taken(1)], [(first, "failure", "bad"), (second, "success", "good")]);
    assert!(workflow.state(1).await.unwrap_err().is_missing());
}

#[tokio::test]
async fn a_run_whose_reply_is_lost_is_found_and_not_started_again() {
    let stand_in = start();
    let workflow = Workflow::new(&client(&stand_in), FILE);
    let since = OffsetDateTime::now_utc();
    stand_in.push(FILE, 3);
    stand_in.vendor.fault(Rule::next("POST", "/dispatches", Fault::LoseReply));
    assert_eq!(workflow.find(since).await.unwrap(), None);
    assert_eq!(workflow.dispatch("main").await.unwrap_err().outcome(), Outcome::Unknown);
    assert_eq!(stand_in.runs().len(), 4, "it was sent once");
    assert_eq!(workflow.find(since).await.unwrap(), stand_in.runs().last().copied());
    assert_eq!(workflow.find(since + Duration::MINUTE).await.unwrap(), None);
    // Of two, the first is ours.
    let other = workflow.dispatch("main").await.unwrap().run_id;
    assert_ne!(workflow.find(since).await.unwrap(), other);

    let error = workflow.dispatch("no-such-branch").await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotDone);
    assert_eq!(stand_in.runs().len(), 5);
}

#[tokio::test]
async fn a_server_that_does_not_know_run_details_is_asked_without() {
    let stand_in = start();
    stand_in.age();
    let workflow = Workflow::new(&client(&stand_in), FILE);
    let dispatched = workflow.dispatch("main").await.unwrap();
    assert_eq!(dispatched.run_id, None);
    assert_eq!(stand_in.vendor.count("POST", "/dispatches"), 2);
    assert_eq!(workflow.find(dispatched.asked_at).await.unwrap(), Some(stand_in.runs()[0]));
}

#[tokio::test]
async fn runs_in_flight_are_all_seen_until_they_end() {
    let stand_in = start();
    let workflow = Workflow::new(&client(&stand_in), FILE);
    assert!(workflow.underway().await.unwrap().is_empty());
    stand_in.take(6, 6);
    let mut expected = stand_in.push(FILE, 101);
    expected.push(workflow.dispatch("main").await.unwrap().run_id.unwrap());
    assert_eq!(workflow.underway().await.unwrap(), expected);
    let drained =
        PATIENCE.until(async || Ok::<_, ProviderError>(workflow.underway().await?.is_empty().then_some(())));
    assert_eq!(drained.await.unwrap(), Some(()));
    assert_eq!(stand_in.ended().len(), 102);
}
