//! What a KMS allows, learnt before the first value needs it.

use reseal::keyring::kms::{Context, Kms, Operation, Standing, aws::AwsKms, local::LocalKms};
use serde_json::json;

use crate::{
    cli::operator::Operator,
    support::{
        fault_proxy::{Fault, FaultProxy, Rule},
        moto::{self, Moto},
    },
};

/// What AWS answers to a dry run of something that is allowed (API Reference, `DryRunOperationException`).
const WOULD_SUCCEED: Fault = Fault::Refuse(412, "DryRunOperationException");

const BOTH: [Operation; 2] = [Operation::GenerateDataKey, Operation::Decrypt];

async fn standings(kms: &dyn Kms) -> [Standing; 2] {
    let context = Context::from([("reseal:purpose".to_owned(), "org_instances".to_owned())]);
    [kms.preflight(BOTH[0], &context).await, kms.preflight(BOTH[1], &context).await]
}

async fn through_proxy() -> (FaultProxy, AwsKms) {
    let proxy = FaultProxy::start(Moto::shared().url());
    let arn = Moto::shared().create_key().await;
    let config = moto::config(&proxy.url()).await;
    let kms = AwsKms::connect_with(&arn.parse().unwrap(), &config).await.unwrap();
    (proxy, kms)
}

#[tokio::test]
async fn a_dry_run_is_enough_where_there_is_one() {
    let (proxy, kms) = through_proxy().await;
    proxy.inject(Rule::every(WOULD_SUCCEED));
    assert_eq!(standings(&kms).await, [Standing::Allowed, Standing::Allowed]);
    assert_eq!((proxy.requests("GenerateDataKey"), proxy.requests("Decrypt")), (2, 1));

    proxy.clear();
    proxy.inject(Rule::every(Fault::DENY).of("Decrypt"));
    proxy.inject(Rule::every(WOULD_SUCCEED));
    let denied = Standing::Refused("AccessDeniedException".to_owned());
    assert_eq!(standings(&kms).await, [Standing::Allowed, denied.clone()]);

    proxy.clear();
    proxy.inject(Rule::every(Fault::DENY).of("GenerateDataKey"));
    proxy.inject(Rule::every(WOULD_SUCCEED));
    assert_eq!(standings(&kms).await, [denied, Standing::Allowed]);

    // A request that is not understood says nothing of one that is.
    proxy.clear();
    proxy.inject(Rule::every(Fault::Refuse(400, "ValidationException")).of("Decrypt"));
    proxy.inject(Rule::every(WOULD_SUCCEED));
    let unknown = Standing::Unknown("ValidationException".to_owned());
    assert_eq!(standings(&kms).await, [Standing::Allowed, unknown]);
}

#[tokio::test]
async fn where_there_is_no_dry_run_it_is_done_for_real() {
    // moto passes DryRun over.
    let (proxy, kms) = through_proxy().await;
    assert_eq!(standings(&kms).await, [Standing::Allowed, Standing::Allowed]);
    proxy.inject(Rule::every(Fault::DENY).of("Decrypt"));
    let denied = Standing::Refused("AccessDeniedException".to_owned());
    assert_eq!(standings(&kms).await, [Standing::Allowed, denied]);

    let folder = tempfile::tempdir().unwrap();
    let local = LocalKms::create(&folder.path().join("keyring")).unwrap();
    assert_eq!(standings(&local).await, [Standing::Allowed, Standing::Allowed]);
}

/// An operator whose KMS is reached through the proxy.
async fn operator(name: &str) -> (Operator, FaultProxy, String, impl Sized) {
    let (mut operator, database, pool) = Operator::on_postgres(name, 12).await;
    let proxy = FaultProxy::start(Moto::shared().url());
    for (name, value) in Moto::shared().env() {
        operator.set(name, value);
    }
    operator.set("AWS_ENDPOINT_URL_KMS", &proxy.url());
    let arn = Moto::shared().create_key().await;
    (operator, proxy, arn, (database, pool))
}

#[tokio::test]
async fn a_plan_names_each_permission_and_is_refused_without_one() {
    let (operator, proxy, arn, _kept) = operator("plan_denied").await;
    let new = format!("aws-kms:{arn}");
    let args = |format| {
        vec![
            "plan",
            "--old",
            "static:env:OLD_KEY",
            "--new",
            new.as_str(),
            "--format",
            format,
            "--output",
            "json",
        ]
    };
    proxy.inject(Rule::every(Fault::DENY).of("GenerateDataKey"));
    let plan = operator.reseal(&args("v2")).exits(4).json();
    assert_eq!(plan["outcome"], "refused");
    assert_eq!(
        plan["permissions"][0],
        json!({"key": arn, "operation": "GenerateDataKey", "standing": "refused", "code": "AccessDeniedException"})
    );
    let what = plan["findings"][0]["what"].as_str().unwrap();
    assert_eq!(what, format!("GenerateDataKey under {arn} is not allowed (AccessDeniedException)"));
    assert!(plan.get("values").is_none());

    proxy.clear();
    for format in ["v2", "v3"] {
        let plan = operator.reseal(&args(format)).exits(0).json();
        let allowed = |operation| json!({"key": arn, "operation": operation, "standing": "allowed"});
        assert_eq!(plan["permissions"], json!([allowed("GenerateDataKey"), allowed("Decrypt")]), "{format}");
    }
    assert_eq!((proxy.requests("Encrypt"), proxy.requests("ReEncrypt")), (0, 0));
    // An old KMS key has only to unwrap.
    let other = Moto::shared().create_key().await;
    let old = format!("aws-kms:{other}");
    let plan = operator
        .reseal(&["plan", "--old", &old, "--old", "static:env:OLD_KEY", "--new", &new, "--output", "json"])
        .exits(0)
        .json();
    assert_eq!(plan["permissions"][2], json!({"key": other, "operation": "Decrypt", "standing": "allowed"}));
    assert_eq!(plan["permissions"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn kms_calls_are_counted_and_priced_by_format_and_scope() {
    let (operator, proxy, arn, _kept) = operator("plan_priced").await;
    let new = format!("aws-kms:{arn}");
    let cost = |more: &[&str]| {
        let args = [
            &["plan", "--old", "static:env:OLD_KEY", "--new", &new, "--batch", "5", "--output", "json"],
            more,
        ]
        .concat();
        operator.reseal(&args).exits(0).json()["kms_calls"].clone()
    };
    let dollars = |calls: f64| calls / 10_000.0 * 0.03;
    assert_eq!(cost(&[]), json!({"run": 24, "verify": 12, "dollars": dollars(36.0)}));
    assert_eq!(cost(&["--data-key-scope", "batch"]), json!({"run": 6, "verify": 3, "dollars": dollars(9.0)}));
    assert_eq!(cost(&["--format", "v3"]), json!({"run": 2, "verify": 1, "dollars": dollars(3.0)}));
    let human = operator.reseal(&["plan", "--old", "static:env:OLD_KEY", "--new", &new]).exits(0).out;
    let said = "24 KMS calls for the run and 12 for verify: $0.00 at AWS's list price of $0.03 for 10,000";
    assert!(human.contains(said), "{human}");
    // What was said is what a run then takes.
    operator.reseal(&["init"]).exits(0);
    let before = proxy.requests("GenerateDataKey") + proxy.requests("Decrypt");
    let run = ["run", "--old", "static:env:OLD_KEY", "--new", &new, "--batch", "5", "--output", "json"];
    assert_eq!(operator.reseal(&run).exits(0).json()["kms_calls"], 24);
    assert_eq!(proxy.requests("GenerateDataKey") + proxy.requests("Decrypt") - before, 24);
}
