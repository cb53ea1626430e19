//! Data keys, single values and fresh keys.

use std::{fs, os::unix::fs::PermissionsExt};

use super::operator::{Operator, with_keys};
use crate::support::{oracle, tenants::Holds};

const V3: [&str; 2] = ["--format", "v3"];

#[tokio::test]
async fn bound_values_and_the_keys_they_need() {
    let (operator, pool, expected) = Operator::on_sqlite(20).await;
    operator.reseal(&["init"]).exits(0);
    assert_eq!(operator.reseal(&["keys", "list"]).exits(0).out, "There are no data keys.\n");
    let run = operator.reseal(&with_keys(&["run"], &V3)).exits(0);
    assert!(run.hints().contains(&"reseal keys export data-keys.json"), "{}", run.err);
    operator.reseal(&["verify", "--format", "v3", "--new", "local-kms:keyring.json"]).exits(0);

    let (org, value): (String, Vec<u8>) = sqlx::query_as(
        "SELECT org_id, database_url_encrypted FROM org_instances WHERE length(database_url_encrypted) > 0 LIMIT 1",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    let Holds::Sealed(plaintext) = &expected.0[&org.parse().unwrap()][0] else { panic!("it has bytes") };
    let open = |row: &str, value: &[u8]| {
        let cell = ["--row", row, "--column", "database_url_encrypted"];
        operator.pipe(&[&["open", "--old", "local-kms:keyring.json"], &cell[..]].concat(), value)
    };
    assert_eq!(open(&org, &value).stdout, plaintext.as_bytes());
    let elsewhere = open("another row", &value);
    assert_eq!(elsewhere.status.code(), Some(4));
    assert!(elsewhere.stdout.is_empty());

    let seal =
        ["seal", "--new", "local-kms:keyring.json", "--row", "r1", "--column", "database_url_encrypted"];
    let sealed = operator.pipe(&[&seal[..], &V3].concat(), b"postgres://u:p@h/db").stdout;
    assert_eq!(open("r1", &sealed).stdout, b"postgres://u:p@h/db");
    assert_eq!(open("r2", &sealed).status.code(), Some(4));

    operator.reseal(&["keys", "export", "keys.json"]).exits(0);
    assert_eq!(operator.reseal(&["keys", "export", "keys.json"]).exits(4).hints(), ["name another file"]);

    // Another database, which has no data key yet.
    let (mut other, _other_pool, _) = Operator::on_sqlite(1).await;
    for file in ["keys.json", "keyring.json"] {
        fs::copy(operator.path(file), other.path(file)).unwrap();
    }
    other.reseal(&["init"]).exits(0);
    let import = ["keys", "import", "keys.json", "--new", "local-kms:keyring.json", "--output", "json"];
    let imported = other.reseal(&import).exits(0).json();
    assert_eq!((&imported["proven"], &imported["added"][0]["state"]), (&1.into(), &"active".into()));
    assert_eq!(other.reseal(&import).exits(0).json()["added"], serde_json::json!([]));

    // A key that is active already is not displaced; other bytes under a known id are refused.
    let exported = fs::read_to_string(operator.path("keys.json")).unwrap();
    let wrapped = serde_json::from_str::<serde_json::Value>(&exported).unwrap()["keys"][0]["wrapped"].clone();
    let wrapped = wrapped.as_str().unwrap();
    let changed = exported.replace(wrapped, &format!("AAAA{}", &wrapped[4..]));
    other.file("changed.json", &changed, 0o600);
    let refused = other.reseal(&["keys", "import", "changed.json"]).exits(4);
    assert!(refused.err.contains("is here already, wrapped otherwise: nothing was added"), "{}", refused.err);
    other.file("cut.json", &exported[..exported.len() / 2], 0o600);
    other.reseal(&["keys", "import", "cut.json"]).exits(4);

    let (empty, _empty_pool, _) = Operator::on_sqlite(1).await;
    fs::copy(operator.path("keyring.json"), empty.path("keyring.json")).unwrap();
    empty.file("changed.json", &changed, 0o600);
    empty.reseal(&["init"]).exits(0);
    empty.reseal(&["keys", "import", "changed.json", "--new", "local-kms:keyring.json"]).exits(4);
    assert_eq!(empty.reseal(&["keys", "list"]).exits(0).out, "There are no data keys.\n");

    other.set("RESEAL_NEW", "local-kms:keyring.json");
    other.reseal(&["keys", "new"]).exits(0);
    let list = other.reseal(&["keys", "list", "--output", "json"]).exits(0).json();
    let mut states =
        list["keys"].as_array().unwrap().iter().map(|key| key["state"].as_str().unwrap()).collect::<Vec<_>>();
    states.sort_unstable();
    assert_eq!(states, ["active", "draining"]);
}

/// Only a run puts a new data key into the registry: a value sealed under one that is not there would be lost.
#[tokio::test]
async fn a_retry_seals_under_no_key_that_is_not_registered() {
    let (mut operator, pool, _) = Operator::on_sqlite(10).await;
    operator.set("OTHER_KEY", &"42".repeat(32));
    let lost = oracle::seal_v1(&[0x42; 32], Some([0x44; 12]), b"postgres://u@h/db");
    sqlx::query("UPDATE org_instances SET database_url_encrypted = $1 WHERE rowid = 1")
        .bind(&lost)
        .execute(&pool)
        .await
        .unwrap();
    operator.reseal(&["init"]).exits(0);
    operator.reseal(&with_keys(&["run"], &[])).exits(3);
    let other = ["--old", "static:env:OTHER_KEY", "--format", "v3"];
    let refused = operator.reseal(&with_keys(&["quarantine", "retry"], &other)).exits(4);
    assert_eq!(refused.hints(), ["name the key that the run ended under: reseal keys list"]);
    let stored: Vec<u8> =
        sqlx::query_scalar("SELECT database_url_encrypted FROM org_instances WHERE rowid = 1")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(stored, lost);
}

#[test]
fn one_value_goes_through_seal_and_open() {
    let operator = Operator::new();
    let secret = b"redis://default:opensesame@h:6379\0\xff";
    for (format, key) in [("v1", "static:env:OLD_KEY"), ("v2", "local-kms:keyring.json")] {
        for encoding in ["raw", "base64", "hex"] {
            let sealed =
                operator.pipe(&["seal", "--format", format, "--new", key, "--encoding", encoding], secret);
            assert_eq!(sealed.status.code(), Some(0), "{}", String::from_utf8_lossy(&sealed.stderr));
            let opened = operator.pipe(&["open", "--old", key, "--encoding", encoding], &sealed.stdout);
            assert_eq!(opened.stdout, secret, "{format} {encoding}");
        }
    }
    let unbound = operator.reseal(&["seal", "--format", "v3", "--new", "local-kms:keyring.json"]).exits(2);
    assert_eq!(
        unbound.err,
        "error: a v3 value is bound to its cell\nhint: name it with --row KEY and --column NAME\n"
    );
    let garbage = operator.pipe(&["open", "--old", "static:env:OLD_KEY"], b"opensesame");
    assert_eq!(garbage.status.code(), Some(4));
    assert_eq!(
        String::from_utf8(garbage.stderr).unwrap(),
        "error: the value does not open: malformed\nhint: is it in another --encoding?\n"
    );
}

#[test]
fn fresh_keys_are_made_once_and_closed_to_others() {
    let mut operator = Operator::new();
    operator.reseal(&["keygen", "--file", "new.key", "--form", "base64"]).exits(0);
    let text = fs::read_to_string(operator.path("new.key")).unwrap();
    assert_eq!(text.len(), 45);
    assert_eq!(fs::metadata(operator.path("new.key")).unwrap().permissions().mode() & 0o777, 0o600);
    operator.guard(text.trim());
    operator.reseal(&["keygen", "--file", "new.key"]).exits(4);
    assert_eq!(fs::read_to_string(operator.path("new.key")).unwrap(), text);

    let printed = operator.pipe(&["keygen"], b"").stdout;
    assert_eq!(hex::decode(printed.trim_ascii()).unwrap().len(), 32);

    operator.reseal(&["keygen", "--local-kms", "keyring.json"]).exits(4);
    let sealed = operator.pipe(&["seal", "--new", "local-kms:keyring.json"], b"before");
    operator.reseal(&["keygen", "--local-kms", "keyring.json", "--rotate"]).exits(0);
    assert_eq!(operator.pipe(&["open", "--old", "local-kms:keyring.json"], &sealed.stdout).stdout, b"before");
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let operator = Operator::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(operator.reseal(&["completions", shell]).exits(0).out.contains("quarantine"));
    }
    assert!(operator.reseal(&["man"]).exits(0).out.contains(".TH reseal 1"));
    fs::create_dir(operator.path("man1")).unwrap();
    operator.reseal(&["man", "man1"]).exits(0);
    for page in ["reseal.1", "reseal-run.1", "reseal-keys-import.1"] {
        assert!(operator.path("man1").join(page).exists(), "{page}");
    }
}
