//! A KMS with a quota: a limit that is set is kept, and where none is set the run finds out what the service takes.

use std::time::Instant;

use crate::{
    cli::operator::Operator,
    support::{
        fault_proxy::{Fault, FaultProxy, Rule},
        moto::Moto,
    },
};

/// Calls a second that the service takes: fewer than the run could make.
const QUOTA: usize = 60;

async fn operator(name: &str, rows: usize, proxy: &FaultProxy) -> (Operator, impl Sized, String) {
    let (mut operator, database, _pool) = Operator::on_postgres(name, rows).await;
    for (name, value) in Moto::shared().env() {
        operator.set(name, value);
    }
    operator.set("AWS_ENDPOINT_URL_KMS", &proxy.url());
    operator.reseal(&["init"]).exits(0);
    let key = format!("aws-kms:{}", Moto::shared().create_key().await);
    (operator, database, key)
}

fn calls(proxy: &FaultProxy) -> u64 {
    ["GenerateDataKey", "Decrypt"].iter().map(|operation| proxy.requests(operation)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_at_the_quota_is_used_and_never_refused() {
    let proxy = FaultProxy::start(Moto::shared().url());
    let (operator, _database, key) = operator("control_quota", 150, &proxy).await;
    // Calls are sent evenly, and counted where they arrive: on a busy machine some come late and together.
    proxy.inject(Rule::every(Fault::Quota(QUOTA + QUOTA / 3)));
    let started = Instant::now();
    let run = [
        "run",
        "--old",
        "static:env:OLD_KEY",
        "--new",
        &key,
        "--max-kms-calls-per-second",
        &QUOTA.to_string(),
        "--output",
        "json",
    ];
    let said = operator.reseal(&run).exits(0);
    let (calls, seconds) = (calls(&proxy), started.elapsed().as_secs_f64());
    assert_eq!(proxy.refused(), 0);
    assert_eq!(said.json()["kms_calls"], calls);
    let rate = f64::from(u32::try_from(calls).unwrap()) / seconds;
    // How well it is used is for benches/quota.rs to say: here other tests have the machine too.
    assert!(rate > 10.0, "{rate} calls a second, with the start and the end of the program");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_throttles_slows_the_run_down_and_does_not_stop_it() {
    let proxy = FaultProxy::start(Moto::shared().url());
    let (operator, _database, key) = operator("control_throttled", 300, &proxy).await;
    proxy.inject(Rule::every(Fault::Quota(QUOTA)));
    let run = ["run", "--old", "static:env:OLD_KEY", "--new", &key, "--workers", "2", "--output", "json"];
    let said = operator.reseal(&run).exits(0);
    let (refused, calls) = (proxy.refused(), calls(&proxy));
    assert!(refused > 0 && refused < calls / 5, "{refused} of {calls} were refused");
    assert_eq!(said.json()["kms_calls"], calls);
    assert!(said.err.contains("\"waiting\":\"the KMS throttles: "), "{}", said.err);
    operator.reseal(&["verify", "--new", &key]).exits(0);
}
