//! Runs that do more than re-key: a new password on the way, another KMS key, all at once.

use std::fs;

use super::operator::{KEYS, OLD, Operator, with_keys};
use crate::support::oracle;

const SHARED: &str = "rediss://default:0ld%40pass@shared.upstash.io:6379";
const RESET: &str = "rediss://default:n3w%2Fpass@shared.upstash.io:6379";

const REWRITE: [&str; 4] =
    ["--rewrite-url-password-from", "env:REDIS_URL", "--rewrite-old-url", "file:old.url"];

#[tokio::test]
async fn a_reset_password_is_written_on_the_way() {
    let (mut operator, pool, _) = Operator::on_sqlite(30).await;
    sqlx::query("UPDATE org_instances SET redis_url_encrypted = $1 WHERE rowid <= 3")
        .bind(oracle::seal_v1(&OLD, None, SHARED.as_bytes()))
        .execute(&pool)
        .await
        .unwrap();
    for secret in ["0ld%40pass", "0ld@pass", "n3w%2Fpass", "n3w/pass", "0therpass"] {
        operator.guard(secret);
    }
    operator.set("REDIS_URL", RESET);
    operator.set("OTHER_URL", "rediss://default:0therpass@shared.upstash.io:6379");
    operator.file("old.url", &format!("{SHARED}\n"), 0o600);
    operator.reseal(&["init"]).exits(0);

    let half = operator.reseal(&with_keys(&["run"], &REWRITE[..2])).exits(2);
    assert!(half.err.contains("go together"), "{}", half.err);
    let pasted = ["--rewrite-url-password-from", RESET, "--rewrite-old-url", "file:old.url"];
    let pasted = operator.reseal(&with_keys(&["run"], &pasted)).exits(2);
    assert_eq!(
        pasted.err,
        "error: --rewrite-url-password-from names where a secret is kept\nhint: env:NAME or file:PATH\n"
    );
    let open_file = ["--rewrite-url-password-from", "env:REDIS_URL", "--rewrite-old-url", "file:open.url"];
    operator.file("open.url", SHARED, 0o644);
    operator.reseal(&with_keys(&["run"], &open_file)).exits(2);
    let elsewhere = ["--rewrite-url-password-from", "env:DATABASE_URL", "--rewrite-old-url", "file:old.url"];
    operator.reseal(&with_keys(&["run"], &elsewhere)).exits(2);

    let run = operator.reseal(&with_keys(&["run"], &REWRITE)).exits(0);
    assert!(run.out.contains("\n3 values rewritten by this process.\n"), "{}", run.out);
    let verify = run.hints().into_iter().find(|hint| hint.starts_with("reseal verify")).unwrap().to_owned();
    assert!(verify.contains("--rewrite-old-url file:old.url"), "{verify}");
    operator.type_line(&verify).exits(0);
    let status = operator.reseal(&["status"]).exits(0);
    assert!(status.out.contains("with the edit url-password"), "{}", status.out);

    // Once more, nothing is left to rewrite, and the URLs are the server's all the same.
    let again =
        operator.reseal(&with_keys(&["run"], &[&REWRITE[..], &["--output", "json"]].concat())).exits(0);
    assert_eq!(again.json()["rewritten"], 0);
    operator.file("old.url", "rediss://default:0ld@elsewhere.upstash.io:6379", 0o600);
    operator.set("REDIS_URL", "rediss://default:0ther@elsewhere.upstash.io:6379");
    let none = operator.reseal(&with_keys(&["run"], &REWRITE)).exits(3);
    assert!(none.out.contains("complete, and NO password was changed"), "{}", none.out);
    assert!(none.out.contains("\n0 values rewritten by this process.\n"), "{}", none.out);
    assert!(none.hints()[0].contains("--rewrite-old-url file:old.url"), "{:?}", none.hints());
    operator.file("old.url", &format!("{SHARED}\n"), 0o600);
    operator.set("REDIS_URL", RESET);

    let other = ["verify", "--new", "local-kms:keyring.json", "--rewrite-old-url", "file:old.url"];
    let other = [&other[..], &["--rewrite-url-password-from", "env:OTHER_URL"]].concat();
    let failed = operator.reseal(&other).exits(3);
    assert!(failed.out.contains("not-edited"), "{}", failed.out);

    let value: Vec<u8> = sqlx::query_scalar("SELECT redis_url_encrypted FROM org_instances WHERE rowid = 2")
        .fetch_one(&pool)
        .await
        .unwrap();
    let opened = operator.pipe(&["open", "--old", "local-kms:keyring.json"], &value);
    assert_eq!(opened.stdout, RESET.as_bytes());
}

#[tokio::test]
async fn data_keys_move_to_another_keyring() {
    let (operator, _pool, _) = Operator::on_sqlite(20).await;
    operator.reseal(&["keygen", "--local-kms", "second.json"]).exits(0);
    operator.reseal(&["init"]).exits(0);
    operator.reseal(&with_keys(&["run"], &["--format", "v3"])).exits(0);
    operator.reseal(&["keys", "rewrap"]).exits(2);
    operator.reseal(&["keys", "rewrap", "--to", "static:env:OLD_KEY"]).exits(2);

    // Without its KMS key named, a data key stays where it is.
    let left = operator.reseal(&["keys", "rewrap", "--to", "local-kms:second.json"]).exits(3);
    assert!(left.out.contains("which --from does not name"), "{}", left.out);
    operator.reseal(&["verify", "--format", "v3", "--new", "local-kms:keyring.json"]).exits(0);

    let rewrap = ["keys", "rewrap", "--to", "local-kms:second.json", "--from", "local-kms:keyring.json"];
    let moved = operator.reseal(&[&rewrap[..], &["--output", "json"]].concat()).exits(0).json();
    assert_eq!(moved["moved"].as_array().unwrap().len(), 1);
    let again = operator.reseal(&[&rewrap[..], &["--output", "json"]].concat()).exits(0).json();
    assert_eq!((&again["moved"], again["current"].as_array().unwrap().len()), (&serde_json::json!([]), 1));

    fs::remove_file(operator.path("keyring.json")).unwrap();
    let verify = ["verify", "--format", "v3", "--new", "local-kms:second.json"];
    assert!(operator.reseal(&verify).exits(0).out.contains("1 data keys were wrapped anew"));
    assert!(!operator.reseal(&verify).exits(0).out.contains("wrapped anew"));

    operator.reseal(&["keygen", "--local-kms", "second.json", "--rotate"]).exits(0);
    let list = operator.reseal(&["keys", "list", "--new", "local-kms:second.json"]).exits(0);
    assert!(list.out.contains("stale"), "{}", list.out);
    let refreshed = operator.reseal(&["keys", "rewrap", "--to", "local-kms:second.json"]).exits(0);
    assert!(refreshed.out.starts_with("1 data keys are wrapped anew"), "{}", refreshed.out);
    let list = operator.reseal(&["keys", "list", "--new", "local-kms:second.json"]).exits(0);
    assert!(list.out.contains("current") && !list.out.contains("stale"), "{}", list.out);
    let unknown = operator.reseal(&["keys", "list", "--output", "json"]).exits(0).json();
    assert!(unknown["keys"][0]["backing_key"].is_null());
}

#[tokio::test]
async fn values_of_v2_move_to_another_keyring() {
    let (operator, _pool, _) = Operator::on_sqlite(20).await;
    operator.reseal(&["keygen", "--local-kms", "second.json"]).exits(0);
    operator.reseal(&["init"]).exits(0);
    operator.reseal(&with_keys(&["run"], &[])).exits(0);
    let keys = ["--old", "local-kms:keyring.json", "--new", "local-kms:second.json"];
    let v3 = operator.reseal(&[&["run", "--rewrap", "--format", "v3"], &keys[..]].concat()).exits(4);
    assert_eq!(v3.hints(), ["for the data keys of v3: reseal keys rewrap --to KMS"]);
    operator.reseal(&[&["run", "--rewrap"], &keys[..]].concat()).exits(0);
    operator.reseal(&["verify", "--new", "local-kms:second.json"]).exits(0);
    operator.reseal(&["verify", "--new", "local-kms:keyring.json"]).exits(3);
    assert!(operator.reseal(&["status"]).exits(0).out.contains("wrapping data keys anew"));
}

#[tokio::test]
async fn all_at_once_for_a_reader_with_one_key() {
    let (mut operator, _pool, _) = Operator::on_sqlite(40).await;
    operator.set("NEW_KEY", &"42".repeat(32));
    operator.guard(&"42".repeat(32));
    operator.reseal(&["init"]).exits(0);
    let keys = ["--format", "v1", "--old", "static:env:OLD_KEY", "--new", "static:env:NEW_KEY"];
    let run = |more: &[&str]| operator.reseal(&[&["run"], &keys[..], more].concat());
    assert_eq!(
        run(&["--staged", "swap"]).exits(4).err,
        "error: nothing is staged for org_instances\nhint: stage it first: --staged prepare\n"
    );
    operator.reseal(&[&["run", "--staged", "prepare"], &KEYS[..]].concat()).exits(4);

    let says = |out: &str, hint: &str| {
        let status = operator.reseal(&["status"]).exits(0);
        assert!(
            status.out.starts_with(out) && status.hints()[0].ends_with(hint),
            "{}{}",
            status.out,
            status.err
        );
    };
    let prepared = run(&["--staged", "prepare"]).exits(0);
    let next = "reseal run --format v1 --old OLD-KEY --new NEW-KEY";
    says("org_instances: values are being sealed ahead under static:", &format!("{next} --staged swap"));
    let (old, new) = (["--old", "static:env:OLD_KEY"], ["--new", "static:env:NEW_KEY"]);
    let line = format!("reseal run {} {} --format v1 --staged swap", old.join(" "), new.join(" "));
    assert_eq!(prepared.hints(), [&line]);
    operator.reseal(&["verify", "--format", "v1", "--new", "static:env:OLD_KEY"]).exits(0);

    let swapped = operator.type_line(&line).exits(0);
    assert!(swapped.out.contains("Deploy the new key NOW"), "{}", swapped.out);
    says("org_instances: its values were swapped under static:", next);
    let rest = operator.type_line(swapped.hints()[0]).exits(0);
    assert!(!rest.err.contains("note: a program"), "{}", rest.err);
    operator.reseal(&["verify", "--format", "v1", "--new", "static:env:NEW_KEY"]).exits(0);

    // Without a staging the run says what it does to such readers.
    let back = ["--format", "v1", "--old", "static:env:NEW_KEY", "--new", "static:env:OLD_KEY"];
    operator.reseal(&[&["run", "--staged", "drop"], &back[..]].concat()).exits(0);
    let plain = operator.reseal(&[&["run"], &back[..]].concat()).exits(0);
    assert!(plain.err.contains("to swap all at once: reseal run"), "{}", plain.err);
}
