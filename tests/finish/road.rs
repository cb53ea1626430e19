//! The whole road, as an operator types it, each step because `status` said so.

use std::fs;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Road, old_key};
use crate::{
    cli::operator::{OLD, Operator, with_keys},
    support::{oracle, tenants::stored_in_sqlite},
};

#[tokio::test]
async fn from_a_static_key_to_v3_on_postgres() {
    let road = Road::new("finish_v3", 40, "v3").await;
    let says = |next: &str| {
        let status = road.operator.reseal(&["status"]).exits(0);
        assert!(status.hints()[0].contains(next), "{next} is not next: {}", status.err);
    };
    road.sweep().exits(0);
    says("reseal fence enforce --format v3 --new NEW-KEY");
    road.type_with(&["fence", "enforce"]).exits(0);
    says("the last sweep, behind the fence: reseal run --format v3 --new NEW-KEY --old OLD-KEY");
    road.sweep().exits(0);
    says("reseal verify --format v3 --new NEW-KEY");
    let verified = road.type_with(&["verify", "--output", "json"]).exits(0);
    assert_eq!(verified.json()["recorded"]["number"], 1);
    assert!(
        verified.hints()[0].starts_with("reseal retire --new local-kms:keyring.json --format v3 OLD-KEY")
    );
    says(&format!("reseal retire --format v3 --new NEW-KEY OLD-KEY  ({})", old_key()));

    let retired = road.retire(&["--certificate", "retired.json", "--output", "json"]).exits(0);
    let answer = retired.json();
    assert_eq!((&answer["key"], &answer["state"]), (&json!(old_key()), &json!("retired")));
    let certificate = fs::read(road.operator.path("retired.json")).unwrap();
    let sha256 = hex::encode(Sha256::digest(&certificate));
    assert_eq!(answer["certificate_sha256"], json!(sha256));
    let audited = &road.audited("key-retired").await[0];
    assert_eq!((&audited["certificate"], &audited["waived"]), (&json!(sha256), &json!([])));
    let certificate: Value = serde_json::from_slice(&certificate).unwrap();
    assert_eq!(certificate, answer["certificate"]);
    let target = &certificate["targets"][0];
    assert_eq!(target["old_keys"], json!([old_key()]));
    assert!(target["new_key"].as_str().unwrap().starts_with("data-key:"));
    assert_eq!((&target["fence"]["mode"], &target["fence"]["intact"]), (&json!("enforce"), &json!(true)));
    assert_eq!((&target["verify"]["rows"], &target["verify"]["failed"]), (&json!(40), &json!(0)));
    assert_eq!(target["verify"]["cells"], 80);
    assert_eq!(certificate["audit_head"]["seq"].as_i64().unwrap() + 1, answer["audit"]["seq"]);
    let said = answer["now"].to_string();
    for part in
        ["The key in $OLD_KEY", "opens nothing in org_instances", "fly secrets unset OLD_KEY", "offline"]
    {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    road.unharmed().await;

    let kms = road.type_with(&["retire", "local-kms:keyring.json"]).exits(4);
    assert!(kms.err.contains("it wraps data key ") && kms.err.contains("which is active"), "{}", kms.err);

    let again = road.retire(&[]).exits(4);
    assert!(again.err.contains(&format!("{} was retired already, on 20", old_key())), "{}", again.err);
    // It opens, for a run away from it.
    for command in [&["plan"][..], &["run"], &["quarantine", "retry"]] {
        road.type_with(&[command, &["--old", "static:env:OLD_KEY"]].concat()).exits(0);
    }
    let back = ["run", "--format", "v1", "--old", "local-kms:keyring.json", "--new", "static:env:OLD_KEY"];
    let refused = road.operator.reseal(&back).exits(4);
    assert_eq!(refused.hints(), ["nothing may be sealed under it any more: name another key as --new"]);
    road.type_with(&["verify"]).exits(0);
    let stale = road.stale_write().await.unwrap_err().to_string();
    assert!(stale.contains("the reseal fence refuses this write"), "{stale}");
    road.unharmed().await;

    let keys = road.operator.reseal(&["keys", "list", "--output", "json"]).exits(0).json();
    let state = |name: &str| {
        let of = keys["other_keys"]
            .as_array()
            .unwrap()
            .iter()
            .find(|key| key["key"].as_str().unwrap().starts_with(name));
        of.unwrap()["state"].clone()
    };
    assert_eq!((state("static:"), state("local-kms:")), (json!("retired"), json!("active")));
    let listed = road.operator.reseal(&["keys", "list"]).exits(0).out;
    assert!(listed.contains(&format!("{} of org_instances: retired, retired on 20", old_key())), "{listed}");

    says("after the soak: reseal destroy OLD-KEY");
    let early = road.operator.reseal(&["destroy", "static:env:OLD_KEY"]).exits(4);
    assert!(early.err.contains("soaks until 20"), "{}", early.err);
    road.execute("UPDATE reseal_retirements SET retired_at = retired_at - interval '35 days'").await;
    let unsure = road.operator.reseal(&["destroy", "static:env:OLD_KEY"]).exits(4);
    assert!(unsure.err.contains("this can't be undone"), "{}", unsure.err);
    let destroyed = road.operator.type_line(unsure.hints()[0]).exits(0);
    assert!(destroyed.out.contains("$OLD_KEY of this shell, and every offline copy"), "{}", destroyed.out);
    assert_eq!(road.audited("key-destroyed").await[0]["soak_seconds"], 35 * 86_400);
    let again = road.operator.type_line(unsure.hints()[0]).exits(4);
    assert!(again.err.contains("was destroyed on 20"), "{}", again.err);
    assert_eq!(road.operator.reseal(&["status"]).exits(0).hints(), Vec::<&str>::new());
    road.unharmed().await;
}

#[tokio::test]
async fn to_v2_the_holders_of_the_old_key_are_an_operators_to_show_gone() {
    let road = Road::verified("finish_v2", "v2").await;
    let refused = road.retire(&[]).exits(4);
    assert!(
        refused.err.contains("no fence can show that nobody writes org_instances under static:"),
        "{}",
        refused.err
    );
    assert_eq!(
        refused.hints(),
        [
            "reseal fence status",
            "if you know better, by name: reseal retire --new local-kms:keyring.json --format v2 \
             static:env:OLD_KEY --waive holders"
        ]
    );
    let retired = road.retire(&["--waive", "holders", "--waive", "fence"]).exits(0);
    assert!(retired.out.contains("  waived, holders: no fence can show"), "{}", retired.out);
    assert!(retired.out.contains("  not needed: --waive fence\n"), "{}", retired.out);
    assert_eq!(road.audited("key-retired").await[0]["waived"], json!(["holders"]));
    road.unharmed().await;
}

#[tokio::test]
async fn on_sqlite() {
    let (operator, pool, expected) = Operator::on_sqlite(30).await;
    let new = ["--new", "local-kms:keyring.json", "--format", "v3"];
    let with_new = |command: &[&str]| operator.reseal(&[command, &new].concat());
    operator.reseal(&["init"]).exits(0);
    operator.reseal(&with_keys(&["run"], &["--format", "v3"])).exits(0);
    with_new(&["fence", "enforce"]).exits(0);
    operator.reseal(&with_keys(&["run"], &["--format", "v3"])).exits(0);
    let refused = with_new(&["retire", "static:env:OLD_KEY"]).exits(4);
    assert_eq!(refused.hints(), ["reseal verify --new local-kms:keyring.json --format v3"]);
    operator.type_line(refused.hints()[0]).exits(0);
    with_new(&["retire", "static:env:OLD_KEY"]).exits(0);
    with_new(&["retire", "static:env:OLD_KEY"]).exits(4);
    let back = ["run", "--format", "v1", "--old", "local-kms:keyring.json", "--new", "static:env:OLD_KEY"];
    operator.reseal(&back).exits(4);
    operator.reseal(&["destroy", "static:env:OLD_KEY"]).exits(4);
    let day = "UPDATE reseal_retirements SET retired_at = retired_at - 86400000";
    sqlx::query(day).execute(&pool).await.unwrap();
    let id = super::old_key();
    operator.reseal(&["destroy", "static:env:OLD_KEY", "--confirm", &id]).exits(4);
    operator.reseal(&["destroy", "static:env:OLD_KEY", "--soak", "1d", "--confirm", &id]).exits(0);
    let stored = stored_in_sqlite(&pool).await;
    assert_eq!(stored.len(), expected.0.len());
    let old = |value: &Vec<u8>| oracle::open_v1(&OLD, value).is_some();
    assert!(!stored.iter().flat_map(|row| row.values.iter().flatten()).any(old));
    with_new(&["verify"]).exits(0);
}

#[tokio::test]
async fn a_data_key_drains_retires_and_is_destroyed() {
    let road = Road::new("finish_data_key", 20, "v3").await;
    road.sweep().exits(0);
    let id = || async {
        let id: Option<String> =
            sqlx::query_scalar("SELECT encode(key_id, 'hex') FROM reseal_data_keys WHERE state <> 'active'")
                .fetch_optional(&road.pool)
                .await
                .unwrap();
        id
    };
    let active: String = sqlx::query_scalar("SELECT encode(key_id, 'hex') FROM reseal_data_keys")
        .fetch_one(&road.pool)
        .await
        .unwrap();
    let first = format!("data-key:{active}");
    let retire = |more: &[&str]| road.type_with(&[&["retire", &first], more].concat());
    let refused = retire(&[]).exits(4);
    assert!(refused.err.contains("is the key given as --new"), "{}", refused.err);

    road.type_with(&["run", "--new-data-key"]).exits(0);
    assert_eq!(id().await.as_deref(), Some(active.as_str()));
    road.type_with(&["fence", "enforce"]).exits(0);
    road.type_with(&["verify"]).exits(0);
    retire(&[]).exits(0);
    assert_eq!(road.number("SELECT count(*) FROM reseal_data_keys WHERE state = 'retired'").await, 1);
    retire(&[]).exits(4);
    let refused = road.type_with(&["run", "--old", &first]).exits(4);
    assert!(refused.err.contains(&format!("{first} was retired on 20")), "{}", refused.err);
    // A row of the registry that somebody put back does not make it one to seal under.
    let named = ["run", "--new", &first, "--old", "local-kms:keyring.json", "--format", "v3"];
    road.operator.reseal(&named).exits(4);

    let destroy = |more: &[&str]| road.operator.reseal(&[&["destroy", &first], more].concat());
    destroy(&["--confirm", &active]).exits(4);
    road.execute("UPDATE reseal_retirements SET retired_at = retired_at - interval '36 days'").await;
    destroy(&["--confirm", "0000"]).exits(4);
    assert_eq!(road.number("SELECT count(*) FROM reseal_data_keys WHERE wrapped IS NULL").await, 0);
    destroy(&["--confirm", &active]).exits(0);
    assert_eq!(
        road.number("SELECT count(*) FROM reseal_data_keys WHERE wrapped IS NULL AND state = 'destroyed'")
            .await,
        1
    );
    destroy(&["--confirm", &active]).exits(4);
    retire(&[]).exits(4);
    road.unharmed().await;
}

#[tokio::test]
async fn to_another_static_key_no_fence_is_possible_and_the_certificate_says_so() {
    let mut road = Road::new("finish_v1", 15, "v1").await;
    road.operator.set("NEW_KEY", &hex::encode([0x3d; 32]));
    road.operator.guard(&hex::encode([0x3d; 32]));
    let new = |command: &[&str]| {
        road.operator.reseal(&[command, &["--format", "v1", "--new", "static:env:NEW_KEY"]].concat())
    };
    new(&["run", "--old", "static:env:OLD_KEY"]).exits(0);
    new(&["verify"]).exits(0);
    let retire = ["retire", "static:env:OLD_KEY", "--output", "json"];
    let refused = new(&retire).exits(4).json();
    let waivers = refused["obstacles"].as_array().unwrap().iter().map(|obstacle| &obstacle["waiver"]);
    assert_eq!(waivers.collect::<Vec<_>>(), ["holders"]);
    let retired = new(&[&retire[..], &["--waive", "holders"]].concat()).exits(0).json();
    let fence = retired["certificate"]["targets"][0]["fence"].as_str().unwrap();
    assert!(fence.starts_with("not possible: "), "{fence}");
}

#[tokio::test]
async fn a_kms_key_goes_when_nothing_is_wrapped_under_it() {
    let mut road = Road::new("finish_kms", 20, "v2").await;
    road.operator.reseal(&["keygen", "--local-kms", "first.json"]).exits(0);
    let to_first = ["--old", "static:env:OLD_KEY", "--new", "local-kms:first.json"];
    road.operator.reseal(&[&["run"], &to_first[..]].concat()).exits(0);
    // A data key of v3 that the first key wraps, and that may open values.
    road.operator.reseal(&["keys", "new", "--new", "local-kms:first.json"]).exits(0);
    road.type_with(&["run", "--old", "local-kms:first.json"]).exits(0);
    road.type_with(&["verify"]).exits(0);
    let retire = |road: &Road| {
        road.type_with(&["retire", "local-kms:first.json", "--waive", "holders", "--waive", "fence"])
    };
    let refused = retire(&road).exits(4);
    assert!(refused.err.contains("it wraps data key "), "{}", refused.err);
    assert_eq!(refused.hints()[0], "reseal keys rewrap --to KMS");
    road.execute("UPDATE reseal_data_keys SET state = 'retired'").await;
    retire(&road).exits(0);

    let destroy = ["destroy", "local-kms:first.json", "--soak", "0s"];
    let refused = road.operator.reseal(&destroy).exits(4);
    assert!(
        refused.err.contains("the latest verify of org_instances is older than the retirement"),
        "{}",
        refused.err
    );
    let verify = refused.hints()[0].replace("--new KEY", "--new local-kms:keyring.json");
    road.operator.type_line(&verify).exits(0);
    let confirm = road.operator.reseal(&destroy).exits(4);
    assert!(confirm.err.contains("was not typed back"), "{}", confirm.err);
    road.operator.type_line(confirm.hints()[0]).exits(0);
    road.format = "v2";
    road.unharmed().await;
}
