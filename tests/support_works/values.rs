//! The oracle agrees with another implementation, and the tenants are known to the last byte.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use sqlx::{
    sqlite::{SqliteConnectOptions, SqlitePool},
    types::Uuid,
};

use crate::support::{
    oracle::{self, Cell},
    postgres::TempPostgres,
    python,
    tenants::{self, Expected, Holds, Stored, Tenants},
};

/// Python's reading of the specification, on another implementation of AES-GCM and HKDF. It opens what it is given
/// and seals the same plaintext itself.
const PYTHON: &str = r#"
import json, os, struct, sys
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

given = json.load(sys.stdin)
key, plaintext = bytes.fromhex(given["key"]), bytes.fromhex(given["plaintext"])

def derive(length, info):
    return HKDF(SHA256(), length, b"", info).derive(key)

def lp(text):
    return struct.pack(">I", len(text.encode())) + text.encode()

key_id = derive(16, b"reseal v3 key id")
cell = derive(32, b"reseal v3 value" + b"".join(map(lp, given["cell"])))
dek = bytes(given["encrypted_dek"])
v2, v3 = b"\x02" + struct.pack(">H", len(dek)) + dek, b"\x03" + key_id
formats = {"v1": (b"", key, b""), "v2": (v2, key, b""), "v3": (v3, cell, v3)}

answer = {"key_id": key_id.hex(), "static_id": derive(16, b"reseal static key id").hex()}
for name, (header, key, aad) in formats.items():
    value = bytes.fromhex(given[name])
    assert value.startswith(header), name
    nonce, sealed = value[len(header):][:12], value[len(header):][12:]
    assert AESGCM(key).decrypt(nonce, sealed, aad) == plaintext, name
    nonce = os.urandom(12)
    answer[name] = (header + nonce + AESGCM(key).encrypt(nonce, plaintext, aad)).hex()
print(json.dumps(answer))
"#;

#[test]
fn the_oracle_agrees_with_an_independent_implementation() {
    let (key, encrypted_dek): (oracle::Key, [u8; 184]) =
        (rand::random(), std::array::from_fn(|_| rand::random()));
    // "Zoë" has fewer characters than bytes: lp() counts bytes.
    let cell = Cell { table: "org_instances", column: "database_url_encrypted", row: "Zoë" };
    for plaintext in [&b""[..], b"x", b"postgres://tenant:pw@ep-1.neon.tech/main?sslmode=require"] {
        let question = json!({
            "key": hex::encode(key),
            "plaintext": hex::encode(plaintext),
            "cell": [cell.table, cell.column, cell.row],
            "encrypted_dek": encrypted_dek.to_vec(),
            "v1": hex::encode(oracle::seal_v1(&key, None, plaintext)),
            "v2": hex::encode(oracle::seal_v2(&key, &encrypted_dek, plaintext)),
            "v3": hex::encode(oracle::seal_v3(&key, cell, plaintext)),
        });
        let answer = ask_python(&question);
        let bytes = |name: &str| hex::decode(answer[name].as_str().unwrap()).unwrap();

        assert_eq!(bytes("key_id"), oracle::key_id(&key));
        assert_eq!(bytes("static_id"), oracle::static_id(&key));
        let v1 = oracle::open_v1(&key, &bytes("v1"));
        assert_eq!(v1.as_deref(), Some(plaintext));
        let v2 = oracle::open_v2(&bytes("v2"), |dek| (dek == encrypted_dek).then_some(key));
        assert_eq!(v2.as_deref(), Some(plaintext));
        let v3 = oracle::open_v3(&bytes("v3"), cell, |id| (id == oracle::key_id(&key)).then_some(key));
        assert_eq!(v3.as_deref(), Some(plaintext));
    }
}

fn ask_python(question: &Value) -> Value {
    let mut python = Command::new(python())
        .args(["-c", PYTHON])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(question.to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_oracle_rejects_what_it_must() {
    let (key, other_key): (oracle::Key, oracle::Key) = (rand::random(), rand::random());
    let cell = Cell { table: "t", column: "c", row: "1" };
    let v1 = oracle::seal_v1(&key, Some([7; 12]), b"secret");
    let v2 = oracle::seal_v2(&key, b"wrapped", b"secret");
    let v3 = oracle::seal_v3(&key, cell, b"secret");
    let open_v2 = |value: &[u8]| oracle::open_v2(value, |_| Some(key));
    let open_v3 = |value: &[u8], cell| oracle::open_v3(value, cell, |_| Some(key));

    for length in 0..v1.len() {
        assert_eq!(oracle::open_v1(&key, &v1[..length]), None);
    }
    for length in 0..v2.len() {
        assert_eq!(open_v2(&v2[..length]), None);
    }
    for length in 0..v3.len() {
        assert_eq!(open_v3(&v3[..length], cell), None);
    }
    for bit in 0..v3.len() * 8 {
        let mut flipped = v3.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open_v3(&flipped, cell), None, "bit {bit}");
    }
    assert_eq!(oracle::open_v1(&other_key, &v1), None);
    assert_eq!(oracle::open_v2(&v2, |_| Some(other_key)), None);
    assert_eq!(oracle::open_v3(&v3, cell, |_| Some(other_key)), None);
    assert_eq!(oracle::open_v3(&v3, cell, |_| None), None);
    assert_eq!(open_v3(&v3, Cell { table: "tc", column: "", ..cell }), None);
    assert_eq!(open_v3(&v3, Cell { row: "2", ..cell }), None);
}

#[test]
fn v1_values_can_be_made_to_look_like_others() {
    let key: oracle::Key = rand::random();
    for first in [0x02, 0x03] {
        let value = oracle::v1_with_first_byte(&key, first, b"secret");
        assert_eq!(value[0], first);
        assert_eq!(oracle::open_v1(&key, &value).unwrap(), b"secret");
    }
    for plaintext in [vec![1; 4], vec![2; 90], vec![3; 9000]] {
        for _ in 0..50 {
            let value = oracle::v1_that_parses_as_v2(&key, &plaintext);
            assert!(oracle::split_v2(&value).is_some());
            assert_eq!(oracle::open_v2(&value, |_| Some(key)), None);
            assert_eq!(oracle::open_v1(&key, &value).unwrap(), plaintext);
        }
    }
}

/// Opens every value with the oracle and compares.
fn differences(expected: &Expected, stored: &[Stored], key: &oracle::Key) -> Vec<String> {
    expected.differences(stored, |_, value| oracle::open_v1(key, value))
}

#[tokio::test]
async fn tenants_fill_postgres() {
    let database = TempPostgres::shared().database("tenants");
    let (pool, key) = (database.pool(), rand::random());
    let expected = Tenants { seed: 1, rows: 50_000, key: &key }.fill_postgres(&pool).await;
    let stored = tenants::stored_in_postgres(&pool).await;

    assert_eq!(expected.0.len(), 50_000);
    assert_eq!(differences(&expected, &stored, &key), Vec::<String>::new());
    assert_eq!(differences(&expected, &stored, &rand::random()).len(), expected.sealed());

    // All that a re-key has to cope with is there.
    let values = || stored.iter().flat_map(|row| &row.values);
    for first in [0x02, 0x03] {
        let alike = values().flatten().filter(|value| value.first() == Some(&first)).count();
        assert!((200..600).contains(&alike), "{alike} values start with {first}");
    }
    assert!((14_000..16_000).contains(&values().filter(|value| value.is_none()).count()));
    assert!(values().flatten().any(Vec::is_empty));
    assert!(expected.0.values().flatten().any(|holds| *holds == Holds::Sealed(String::new())));
}

#[tokio::test]
async fn tenants_are_the_same_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tenants.db");
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    let sqlite = SqlitePool::connect_with(options).await.unwrap();
    let (one, other) = (TempPostgres::shared().database("same"), TempPostgres::shared().database("other"));
    let key = rand::random();
    let tenants = Tenants { seed: 2, rows: 2_345, key: &key };

    let expected = tenants.fill_sqlite(&sqlite).await;
    let stored = tenants::stored_in_sqlite(&sqlite).await;
    assert_eq!(stored.len(), 2_345);
    assert_eq!(differences(&expected, &stored, &key), Vec::<String>::new());
    let types = "SELECT DISTINCT typeof(org_id), typeof(database_url_encrypted) FROM org_instances";
    let types = sqlx::query_as::<_, (String, String)>(types).fetch_all(&sqlite).await.unwrap();
    assert_eq!(types, [("text".to_owned(), "blob".to_owned())]);

    assert_eq!(expected, tenants.fill_postgres(&one.pool()).await);
    assert_ne!(expected, Tenants { seed: 3, ..tenants }.fill_postgres(&other.pool()).await);
}

#[test]
fn every_difference_is_seen() {
    let key: oracle::Key = rand::random();
    let sealed = |plaintext: &str| Some(oracle::seal_v1(&key, None, plaintext.as_bytes()));
    let row = |number: u128, values| Stored { org_id: Uuid::from_u128(number).to_string(), values };
    let expected = Expected(
        [
            (1, [Holds::Sealed("one".to_owned()), Holds::Null]),
            (2, [Holds::Sealed("two".to_owned()), Holds::Sealed(String::new())]),
            (3, [Holds::ZeroLength, Holds::Sealed("three".to_owned())]),
        ]
        .map(|(number, holds)| (Uuid::from_u128(number), holds))
        .into(),
    );
    let verdicts = |rows: &[Stored]| {
        let found = differences(&expected, rows, &key).into_iter();
        found.map(|line| line.replace("00000000-0000-0000-0000-00000000000", "")).collect::<Vec<_>>()
    };

    let intact = [
        row(1, [sealed("one"), None]),
        row(2, [sealed("two"), sealed("")]),
        row(3, [Some(Vec::new()), sealed("three")]),
    ];
    assert_eq!(verdicts(&intact), Vec::<String>::new());

    let damaged = [
        row(3, [None, Some(vec![0; 40])]),
        row(1, [sealed("two"), Some(Vec::new())]),
        row(1, [sealed("one"), None]),
        row(4, [sealed("one"), None]),
    ];
    assert_eq!(
        verdicts(&damaged),
        [
            "3 database_url_encrypted: became NULL",
            "3 redis_url_encrypted: does not open",
            "1 database_url_encrypted: opens to another plaintext",
            "1 redis_url_encrypted: held nothing and was changed",
            "1: not one of the rows, or there twice",
            "4: not one of the rows, or there twice",
            "2: the row is gone",
        ]
    );
}
