//! Editing plaintexts on the way.

use std::{sync::Arc, time::Duration};

use reseal::{
    envelope::{Cell, Format},
    rekey::{Edit, Edited, Intent, Kind, Outcome, RekeyError, RunKeys, RunKind, UrlPassword},
    secret::{Plaintext, SecretText},
};
use uuid::Uuid;

use super::stage::{Database, OLD, Stage, Under, run_job, try_run_job};
use crate::support::tenants::Holds;

const SHARED: &str = "rediss://default:0ld%40pass@shared.upstash.io:6379";
const RESET: &str = "rediss://default:n3w%2Fpass@shared.upstash.io:6379";

fn to(new: &str) -> Kind {
    let text = |text: &str| SecretText::new(text.to_owned());
    Kind::Rewrite(Arc::new(UrlPassword::new(text(SHARED), &text(new)).unwrap()))
}

/// Gives every seventh tenant the shared Redis, in one way of writing it or another, next to URLs that only look
/// like it; gives the rows that have it.
async fn share<D: Database>(stage: &mut Stage<D>) -> Vec<Uuid> {
    let rows: Vec<Uuid> = stage.expected.0.keys().copied().step_by(7).collect();
    for (number, &row) in rows.iter().enumerate() {
        let path = ["", "/0", "?db=1#x:y@z", "/%61"][number % 4];
        stage.hold(row, 1, &format!("{SHARED}{path}")).await;
        stage.hold(row, 0, &format!("postgres://default:0ld%40pass@shared.upstash.io:6379{path}")).await;
    }
    rows
}

/// From now on the shared server's URLs are expected with the new password, and all else as it is.
fn expect_reset<D: Database>(stage: &mut Stage<D>) {
    for holds in stage.expected.0.values_mut().flatten() {
        if let Holds::Sealed(text) = holds {
            *text = text.replace(SHARED, RESET);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_password_reaches_every_tenant_of_the_shared_server_and_no_other() {
    reset_on(Stage::new("rewrite", 700).await).await;
    reset_on(Stage::on_sqlite(700).await).await;
}

async fn reset_on<D: Database>(mut stage: Stage<D>) {
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let kms = format!("local-kms:{}", keyring.display());
    let shared = share(&mut stage).await;
    let plain = stage.options.kind.clone();
    let (_, sealed) = stage.cells();

    // With the re-key, in one run.
    stage.options.kind = to(RESET);
    let choice = stage.choice(Format::V2, &[&old], &kms);
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.tally.rekeyed), (Outcome::Complete, sealed));
    expect_reset(&mut stage);
    assert_eq!(stage.differences(Under::Wrapped(&keyring)).await, [""; 0]);
    assert!(stage.verify(&choice).await.passed());

    // Verify wants this edit, and not another one.
    stage.options.kind = to("rediss://default:other@shared.upstash.io:6379");
    let verified = stage.verify(&choice).await;
    assert_eq!(verified.failed, i64::try_from(shared.len()).unwrap());
    assert!(
        verified.failures.iter().all(|failure| failure.reason == "not-edited"),
        "{:?}",
        verified.failures
    );
    assert!(verified.failures.iter().all(|failure| failure.column == "redis_url_encrypted"));
    stage.options.kind = plain;
    assert!(stage.verify(&choice).await.passed(), "all are under the new key");
}

/// A value that is under the new key already, and even shows it in its header, is edited all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_the_new_key_already_is_edited_too() {
    edited_in_place_on(Stage::new("rewrite_v3", 700).await).await;
    edited_in_place_on(Stage::on_sqlite(700).await).await;
}

async fn edited_in_place_on<D: Database>(mut stage: Stage<D>) {
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let kms = format!("local-kms:{}", keyring.display());
    let shared = i64::try_from(share(&mut stage).await.len()).unwrap();
    let choice = stage.choice(Format::V3, &[&old], &kms);
    let (_, sealed) = stage.cells();
    stage.run(&choice).await;

    stage.options.kind = to(RESET);
    let choice = stage.choice(Format::V3, &[&kms], &kms);
    assert_eq!(stage.verify(&choice).await.failed, shared);
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.tally.rekeyed), (Outcome::Complete, shared));
    assert_eq!(report.tally.current, sealed - shared, "the others are not touched");
    expect_reset(&mut stage);
    assert_eq!(stage.differences(Under::Bound(&keyring)).await, [""; 0]);
    assert!(stage.verify(&choice).await.passed());
    let again = stage.run(&choice).await;
    assert_eq!((again.tally.rekeyed, again.run.sweep), (0, 2));
}

/// The password of an open run is part of what it is, and the run's row gives nothing to guess it by.
#[tokio::test(flavor = "multi_thread")]
async fn another_password_does_not_join_an_open_run() {
    for (format, name) in [(Format::V1, "join_v1"), (Format::V2, "join_v2"), (Format::V3, "join_v3")] {
        let mut stage = Stage::new(name, 400).await;
        let (old, keyring) = (stage.old(), stage.keyring("keyring"));
        let new = match format {
            Format::V1 => stage.static_key("new", &[0x22; 32]),
            Format::V2 | Format::V3 => format!("local-kms:{}", keyring.display()),
        };
        share(&mut stage).await;
        let choice = stage.choice(format, &[&old], &new);
        stage.options.kind = to(RESET);
        stage.options.rows_limit = Some(100);
        let interrupted = stage.run(&choice).await;
        assert_eq!(interrupted.outcome, Outcome::Interrupted);
        stage.options.rows_limit = None;

        let Kind::Rewrite(edit) = to(RESET) else { unreachable!() };
        let keys = interrupted.run.keys.clone();
        assert!(!keys.contains(&hex::encode(edit.fingerprint())) && !keys.contains("n3w"), "{keys}");

        let total = stage.store.tally(&interrupted.run.run_id, None).await.unwrap().total;
        for other in [to("rediss://default:other@shared.upstash.io:6379"), Kind::Rekey] {
            stage.options.kind = other;
            let refused = try_run_job(stage.job(&choice, Intent::Run).await).await.unwrap_err();
            assert!(matches!(&refused, RekeyError::Refused { .. }), "{refused}");
            assert!(refused.to_string().ends_with("kind or edit"), "{refused}");
        }
        assert_eq!(stage.store.tally(&interrupted.run.run_id, None).await.unwrap().total, total);

        stage.options.kind = to(RESET);
        let report = stage.run(&choice).await;
        assert_eq!((report.outcome, &report.run.run_id), (Outcome::Complete, &interrupted.run.run_id));
        expect_reset(&mut stage);
        let under = match format {
            Format::V1 => Under::Static(&[0x22; 32]),
            Format::V2 => Under::Wrapped(&keyring),
            Format::V3 => Under::Bound(&keyring),
        };
        assert_eq!(stage.differences(under).await, [""; 0]);
    }
}

/// An edit that changes what it made.
#[derive(Debug)]
struct Louder;

impl Edit for Louder {
    fn name(&self) -> &str {
        "louder"
    }

    fn fingerprint(&self) -> [u8; 32] {
        [7; 32]
    }

    fn edit(&self, cell: Cell<'_>, plaintext: &Plaintext, out: &mut Plaintext) -> Edited {
        if cell.column != "redis_url_encrypted" {
            return Edited::Same;
        }
        out.expose_mut().extend([plaintext.expose(), b"!"].concat());
        Edited::Changed
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_is_not_idempotent_writes_nothing() {
    let mut stage = Stage::new("louder", 50).await;
    let (old, new) = (stage.old(), stage.static_key("new", &[0x22; 32]));
    stage.options.kind = Kind::Rewrite(Arc::new(Louder));
    let choice = stage.choice(Format::V1, &[&old], &new);
    let error = try_run_job(stage.job(&choice, Intent::Run).await).await.unwrap_err();
    let RekeyError::NotIdempotent { edit, row, column } = &error else { panic!("{error}") };
    assert_eq!((edit.as_str(), column.as_str()), ("louder", "redis_url_encrypted"));
    let row = row.parse::<Uuid>().unwrap();
    assert!(matches!(stage.expected.0[&row][1], Holds::Sealed(_)));
    assert!(!error.is_resumable());
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);
}

/// A program that still has the old password writes behind the cursor: a later sweep edits that too.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_password_under_the_new_key_behind_the_cursor_is_found_by_a_later_sweep() {
    let mut stage = Stage::new("behind", 2000).await;
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let kms = format!("local-kms:{}", keyring.display());
    let shared = share(&mut stage).await;
    stage.options.kind = to(RESET);
    stage.options.workers = 1;
    stage.options.rows_limit = Some(1000);
    let choice = stage.choice(Format::V3, &[&old], &kms);
    let job = stage.job(&choice, Intent::Run).await;
    let sealer = Arc::clone(&job.sealer);
    run_job(job).await;
    // Some of these rows are done, and now hold the old password under the new key again.
    for &row in &shared {
        let (mut sealed, mut check) = (Vec::new(), Plaintext::new());
        let text = Plaintext::from(SHARED.as_bytes().to_vec());
        sealer.seal(1, &row.to_string(), None, &text, &mut sealed, &mut check).unwrap();
        stage.on.put(row, 1, sealed).await;
        stage.expected.0.get_mut(&row).unwrap()[1] = Holds::Sealed(SHARED.to_owned());
    }
    stage.options.rows_limit = None;
    let report = stage.run(&choice).await;
    assert_eq!(report.outcome, Outcome::Complete);
    assert!(report.run.sweep > 1);
    expect_reset(&mut stage);
    assert_eq!(stage.differences(Under::Bound(&keyring)).await, [""; 0]);
    assert!(stage.verify(&choice).await.passed());
}

#[test]
fn a_run_from_before_there_were_edits_is_still_understood() {
    let stored = r#"{"format":"v2","new":"local-kms:a","old":["static:b"],"scope":"row"}"#;
    let keys: RunKeys = serde_json::from_str(stored).unwrap();
    assert_eq!(keys.kind, RunKind::Rekey);
    assert_eq!(serde_json::to_string(&keys).unwrap(), stored);
}

/// An edit with a mistake in it: one value is too much for it.
#[derive(Debug)]
struct Stumbles;

impl Edit for Stumbles {
    fn name(&self) -> &str {
        "stumbles"
    }

    fn fingerprint(&self) -> [u8; 32] {
        [8; 32]
    }

    fn edit(&self, _: Cell<'_>, plaintext: &Plaintext, _: &mut Plaintext) -> Edited {
        assert!(plaintext.expose() != b"postgres://too/much", "what the edit did not expect");
        Edited::Same
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_over_one_value_ends_the_process_part_instead_of_being_tried_for_ever() {
    let mut stage = Stage::new("stumbles", 300).await;
    let row = *stage.expected.0.keys().nth(200).unwrap();
    stage.hold(row, 0, "postgres://too/much").await;
    let (old, new) = (stage.old(), stage.static_key("new", &[0x22; 32]));
    stage.options.kind = Kind::Rewrite(Arc::new(Stumbles));
    let choice = stage.choice(Format::V1, &[&old], &new);
    let run = tokio::spawn(try_run_job(stage.job(&choice, Intent::Run).await));
    let ended = tokio::time::timeout(Duration::from_secs(30), run).await.expect("it goes on and on");
    assert!(ended.unwrap_err().is_panic(), "whoever runs it hears of it");
    // The run is open, for a program without the mistake.
    assert_eq!(stage.number("SELECT count(*) FROM reseal_runs WHERE state = 'running'").await, 1);
    let either = [Under::Static(&OLD), Under::Static(&[0x22; 32])];
    assert_eq!(stage.differences_under_any(&either).await, [""; 0]);
}
