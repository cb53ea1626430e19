//! What a fence takes for the new key's, value by value, on both databases.

use base64::{Engine, prelude::BASE64_STANDARD};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reseal::store::{FenceMode, FenceRule};

use super::{
    field::{Field, KEY, bound, bytes, is_fenced, text, v1, v3},
    sqlite::File,
};
use crate::support::oracle;

/// `0x02`, this length, and so many bytes behind it.
fn v2(length: u16, behind: usize) -> Vec<u8> {
    [&[2], length.to_be_bytes().as_slice(), &vec![7; behind]].concat()
}

/// Values, and whether the rule lets them through.
fn cases(rule: FenceRule) -> Vec<(&'static str, Vec<u8>, bool)> {
    let mut other = KEY;
    other[14] ^= 1;
    let is_v2 = rule == FenceRule::Wrapped;
    vec![
        ("v3 under the key", v3(KEY, 9), !is_v2),
        ("v3 under a key that differs in one bit", v3(other, 9), false),
        ("the header alone", [&[3], KEY.as_slice()].concat(), !is_v2),
        ("a header that is cut off", [&[3], &KEY[..15]].concat(), false),
        ("v1", v1(9), false),
        ("v1 that begins with 0x03", [&[3], [9; 60].as_slice()].concat(), false),
        ("v1 that begins with 0x02", [&[2], [9; 60].as_slice()].concat(), false),
        ("one byte", vec![2], false),
        ("two bytes", vec![2, 0], false),
        ("three bytes", vec![2, 0, 1], false),
        ("v2, the shortest", v2(1, 29), is_v2),
        ("v2 without room for its tag", v2(1, 28), false),
        ("v2 with no data key", v2(0, 60), false),
        ("v2 as usual", v2(184, 184 + 28 + 90), is_v2),
        ("v2 whose length is one too long", v2(63, 90), false),
        ("v2 whose length just fits", v2(62, 90), is_v2),
        ("v2 with the longest data key", v2(6144, 6144 + 28), is_v2),
        ("v2 with a longer one", v2(6145, 6145 + 28), false),
        ("v2 with a length of 8192", v2(8192, 8192 + 90), false),
        ("a long v1", vec![0x55; 1 << 20], false),
    ]
}

/// Texts that are no base64: none is the new key's, and none makes the fence itself fail.
const TEXTS: [&str; 9] = [
    "A",
    "Ag",
    "Ag==",
    "AgAB",
    "AgA\n",
    "hello, world: this is no base64 at all",
    "ÄÖÜß日本語",
    "'\\\\",
    "====",
];

#[tokio::test(flavor = "multi_thread")]
async fn each_value_is_judged_by_its_bytes_on_postgres() {
    for rule in [bound(), FenceRule::Wrapped] {
        let field = Field::new("fence_rule").await;
        field.raise(FenceMode::Enforce, rule).await;
        let fill = if rule == bound() { v3(KEY, 1) } else { v2(40, 90) };
        field.execute(&format!("INSERT INTO t VALUES (2, {}, {})", bytes(&fill), text(&fill))).await;
        for (label, value, passes) in cases(rule) {
            for (column, literal) in [("a", bytes(&value)), ("b", text(&value))] {
                for sql in [
                    format!("INSERT INTO t (k, {column}) VALUES (3, {literal}); DELETE FROM t WHERE k = 3"),
                    format!("UPDATE t SET {column} = {literal} WHERE k = 2"),
                ] {
                    let done = field.write(&sql).await;
                    if passes {
                        done.unwrap_or_else(|refusal| panic!("{label}, {column}: {refusal:?}"));
                    } else {
                        assert_eq!(is_fenced(done).column, column, "{label}");
                    }
                }
            }
        }
        for text in TEXTS {
            let done = sqlx::query("UPDATE t SET b = $1 WHERE k = 2").bind(text).execute(&field.pool).await;
            is_fenced(super::field::refusal(done));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_value_is_judged_by_its_bytes_on_sqlite() {
    for rule in [bound(), FenceRule::Wrapped] {
        let file = File::new().await;
        file.raise(FenceMode::Enforce, rule).await;
        file.execute("INSERT INTO t (k) VALUES (2)").await.unwrap();
        for (label, value, passes) in cases(rule) {
            let encoded = BASE64_STANDARD.encode(&value);
            for (column, literal) in
                [("a", format!("x'{}'", hex::encode(&value))), ("b", format!("'{encoded}'"))]
            {
                for sql in [
                    format!("INSERT INTO t (k, {column}) VALUES (3, {literal}); DELETE FROM t WHERE k = 3"),
                    format!("UPDATE t SET {column} = {literal} WHERE k = 2"),
                ] {
                    let done = file.execute(&sql).await;
                    assert_eq!(done.is_ok(), passes, "{label}, {column}: {done:?}");
                    if let Err(message) = done {
                        assert!(message.contains("the reseal fence refuses this write: t."), "{message}");
                    }
                }
            }
        }
        for text in TEXTS {
            let literal = text.replace('\'', "''");
            let done = file.execute(&format!("UPDATE t SET b = '{literal}' WHERE k = 2")).await;
            assert!(done.unwrap_err().contains("the reseal fence refuses"), "{text}");
        }
    }
}

/// The form of v2 as the tests' own reading of the formats sees it, of values that nearly have it.
#[tokio::test(flavor = "multi_thread")]
async fn the_form_of_v2_is_that_of_an_independent_reading() {
    let mut random = StdRng::seed_from_u64(11);
    let values: Vec<Vec<u8>> = (0..3000)
        .map(|_| {
            let mut value: Vec<u8> = (0..random.random_range(1..400)).map(|_| random.random()).collect();
            for (byte, highest) in value.iter_mut().zip([2, 2, 255]) {
                *byte = random.random_range(0..=highest);
            }
            if let Some(first) = value.first_mut()
                && random.random_ratio(3, 4)
            {
                *first = 2;
            }
            value
        })
        .collect();
    let expected: Vec<bool> = values.iter().map(|value| oracle::split_v2(value).is_some()).collect();
    let in_form = expected.iter().filter(|&&is_v2| is_v2).count();
    assert!((300..2700).contains(&in_form), "{in_form}");

    let field = Field::new("fence_form").await;
    field.raise(FenceMode::Enforce, FenceRule::Wrapped).await;
    let check: String = sqlx::query_scalar(
        "SELECT proname::text FROM pg_proc WHERE proname LIKE 'reseal\\_fence\\_%\\_check'",
    )
    .fetch_one(&field.pool)
    .await
    .unwrap();
    let sql = format!(
        "SELECT {check}(v, NULL, NULL, NULL) IS NOT TRUE, {check}(NULL, NULL, \
         translate(encode(v, 'base64'), E'\\n', ''), NULL) IS NOT TRUE FROM unnest($1::bytea[]) WITH ORDINALITY AS u(v, n) ORDER BY n"
    );
    let judged: Vec<(bool, bool)> =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(&values).fetch_all(&field.pool).await.unwrap();
    let file = File::new().await;
    file.raise(FenceMode::Enforce, FenceRule::Wrapped).await;
    for (number, (value, expected)) in values.iter().zip(expected).enumerate() {
        assert_eq!(judged[number], (expected, expected), "{}", hex::encode(value));
        if number < 400 {
            let sql = format!("INSERT INTO t (k, a) VALUES ({number} + 10, x'{}')", hex::encode(value));
            assert_eq!(file.execute(&sql).await.is_ok(), expected, "{sql}");
            let text = BASE64_STANDARD.encode(value);
            let sql = format!("INSERT INTO t (k, b) VALUES ({number} + 1000, '{text}')");
            assert_eq!(file.execute(&sql).await.is_ok(), expected, "{sql}");
        }
    }
}
