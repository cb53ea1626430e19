//! A plan as a person reads it.

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::{
    cli::operator::{OLD, Operator, with_keys},
    support::oracle,
};

#[tokio::test]
async fn the_verdict_comes_first_and_the_next_commands_last() {
    let (operator, _database, pool) = Operator::on_postgres("plan_words", 40).await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "CREATE TABLE copies (v text); INSERT INTO copies VALUES ('{}');
         CREATE INDEX \"odd\u{1b}[2J\" ON org_instances (redis_url_encrypted)",
        BASE64_STANDARD.encode(oracle::seal_v1(&OLD, None, b"redis://kept-elsewhere"))
    )))
    .execute(&pool)
    .await
    .unwrap();
    let plan = operator.reseal(&with_keys(&["plan"], &[])).exits(0);
    let text = &plan.out;
    assert!(
        text.starts_with("org_instances: 40 of 40 rows can be re-keyed.\n  to v2 under local-kms:"),
        "{text}"
    );
    assert!(text.lines().all(|line| line.len() <= 100 || line.starts_with("  reseal ")), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    for said in [
        "\nPermissions of the KMS:\n  GenerateDataKey under local-kms:",
        "\nBefore the run, every program that reads these columns must read v2 (KMS_KEY_ARN is set)",
        "\nThe way back, as long as the old key is kept:\n  reseal run --format v1 --old local-kms:keyring.json --new static:env:OLD_KEY\n",
        "\nWhat it takes, about:\n",
        "  80 KMS calls for the run and 40 for verify. This plan made 80.\n",
        "  Updates can't be HOT: odd\\u{1b}[2J read what is updated.",
        "\nwarning: public.copies, column v: 1 of 1 sampled values open under an old static key\n",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let (_, digest) = text.trim_end().rsplit_once("\nPlan ").unwrap();
    let keys = "--old static:env:OLD_KEY --new local-kms:keyring.json";
    let hints = plan.hints();
    assert_eq!(hints[0], "reseal init");
    assert!(hints[1].starts_with("reseal fence observe"), "{hints:?}");
    assert_eq!(hints[2], format!("reseal run {keys} --plan {digest}"));
    assert!(hints[3].starts_with("reseal fence enforce"), "{hints:?}");
    assert_eq!(hints[4], hints[2]);
    assert_eq!(hints[5], "reseal verify --new local-kms:keyring.json");
    assert!(hints[6].starts_with("reseal retire") && hints[6].ends_with(" static:env:OLD_KEY"), "{hints:?}");
    let document = operator.reseal(&with_keys(&["plan", "--output", "json"], &[])).exits(0).json();
    assert_eq!(document["digest"], digest);
    assert_eq!(document["elsewhere"]["holders"][0]["table"], "copies");
    assert_eq!(document["next"].as_array().unwrap().len(), 7);
}

#[tokio::test]
async fn a_copied_value_is_warned_of() {
    let (operator, _database, pool) = Operator::on_postgres("plan_copied", 10).await;
    sqlx::raw_sql("UPDATE org_instances SET redis_url_encrypted = database_url_encrypted WHERE slug = (SELECT min(slug) FROM org_instances)")
        .execute(&pool)
        .await
        .unwrap();
    let plan = operator.reseal(&with_keys(&["plan", "--output", "json"], &[])).exits(0).json();
    assert_eq!((&plan["repeats"]["values"], &plan["repeats"]["cells"]), (&1.into(), &2.into()));
    let findings = plan["findings"].as_array().unwrap().iter();
    let mut what = findings.map(|finding| finding["what"].as_str().unwrap());
    assert!(what.any(|what| what.starts_with("2 cells hold a ciphertext that another cell holds too: row ")));
}
