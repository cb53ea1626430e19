//! AWS KMS, as moto plays it, with the faults of a network and of the service put in between.

use std::{
    env,
    net::TcpListener,
    process::Command,
    time::{Duration, Instant},
};

use aws_config::{Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_kms::primitives::Blob;
use reseal::keyring::kms::{
    ConnectError, Kms, KmsError, Locality,
    aws::{AwsKeyName, AwsKms},
};

use super::{context, kind};
use crate::support::{
    fault_proxy::{Fault, FaultProxy, MESSAGE, Rule},
    moto::{self, ACCOUNT, Moto, REGION},
};

fn name(text: &str) -> AwsKeyName {
    text.parse().unwrap()
}

async fn connect(key: &str, endpoint: &str) -> Result<AwsKms, ConnectError> {
    AwsKms::connect_with(&name(key), &moto::config(endpoint).await).await
}

/// A key, a proxy in front of moto, and the key as it is seen through it.
async fn through_proxy() -> (FaultProxy, AwsKms) {
    let proxy = FaultProxy::start(Moto::shared().url());
    let key = Moto::shared().create_key().await;
    let kms = connect(&key, &proxy.url()).await.unwrap();
    (proxy, kms)
}

/// The same with few, quick retries, to see them spent.
async fn impatient() -> (FaultProxy, AwsKms) {
    let proxy = FaultProxy::start(Moto::shared().url());
    let key = Moto::shared().create_key().await;
    let config = moto::settings(&proxy.url())
        .retry_config(
            RetryConfig::standard().with_max_attempts(3).with_initial_backoff(Duration::from_millis(10)),
        )
        .timeout_config(
            TimeoutConfig::builder().operation_attempt_timeout(Duration::from_millis(300)).build(),
        )
        .load()
        .await;
    let kms = AwsKms::connect_with(&name(&key), &config).await.unwrap();
    (proxy, kms)
}

fn code(error: &KmsError) -> &str {
    match error {
        KmsError::Blob { code, .. } | KmsError::Key { code, .. } | KmsError::Service { code, .. } => code,
    }
}

#[tokio::test]
async fn a_data_key_comes_back_from_its_blob_and_context() {
    let key = Moto::shared().create_key().await;
    let kms = connect(&key, Moto::shared().url()).await.unwrap();
    assert_eq!((kms.key_name(), kms.locality(), kms.calls()), (key.as_str(), Locality::Remote, 0));
    for context in [context(&[]), context(&[("reseal:purpose", "org_instances"), ("reseal:wrap", "1")])] {
        let made = kms.generate_data_key(&context).await.unwrap();
        assert_eq!(kms.decrypt(&made.wrapped, &context).await.unwrap(), made.key);
    }
    assert_eq!(kms.calls(), 4);
}

#[tokio::test]
async fn a_blob_of_another_context_or_none_at_all_is_refused() {
    let key = Moto::shared().create_key().await;
    let kms = connect(&key, Moto::shared().url()).await.unwrap();
    let (mine, other) = (context(&[("reseal:wrap", "1")]), context(&[("reseal:wrap", "2")]));
    let wrapped = kms.generate_data_key(&mine).await.unwrap().wrapped;
    let mut tampered = wrapped.clone();
    *tampered.last_mut().unwrap() ^= 1;
    for (blob, context) in
        [(&wrapped, &other), (&wrapped, &context(&[])), (&tampered, &mine), (&vec![0xff; 80], &mine)]
    {
        let error = kms.decrypt(blob, context).await.unwrap_err();
        assert_eq!((kind(&error), code(&error)), ("blob", "InvalidCiphertextException"));
    }
    // What KMS would not take is not sent.
    let calls = kms.calls();
    for blob in [vec![], vec![7; 6145]] {
        assert_eq!(kind(&kms.decrypt(&blob, &mine).await.unwrap_err()), "blob");
    }
    assert_eq!(kms.calls(), calls);
}

#[tokio::test]
async fn a_blob_of_another_key_does_not_open() {
    let (one, other) = (Moto::shared().create_key().await, Moto::shared().create_key().await);
    let one = connect(&one, Moto::shared().url()).await.unwrap();
    let other = connect(&other, Moto::shared().url()).await.unwrap();
    let wrapped = one.generate_data_key(&context(&[])).await.unwrap().wrapped;
    // Where AWS says IncorrectKeyException, of the blob, moto says this.
    let error = other.decrypt(&wrapped, &context(&[])).await.unwrap_err();
    assert_eq!((kind(&error), code(&error)), ("key", "AccessDeniedException"));
}

#[tokio::test]
async fn an_answer_from_another_key_is_not_taken() {
    let (proxy, one) = through_proxy().await;
    let other = connect(&Moto::shared().create_key().await, Moto::shared().url()).await.unwrap();
    let wrapped = other.generate_data_key(&context(&[])).await.unwrap().wrapped;
    proxy.inject(Rule::every(Fault::ForgetKey));
    let error = one.decrypt(&wrapped, &context(&[])).await.unwrap_err();
    assert_eq!((kind(&error), code(&error)), ("blob", "wrapped under another key"));
}

#[tokio::test]
async fn a_blob_that_holds_no_data_key_is_refused() {
    let key = Moto::shared().create_key().await;
    let kms = connect(&key, Moto::shared().url()).await.unwrap();
    let client = Moto::shared().client().await;
    let blob = client.encrypt().key_id(&key).plaintext(Blob::new("16 bytes of text")).send().await.unwrap();
    let error = kms.decrypt(blob.ciphertext_blob.unwrap().as_ref(), &context(&[])).await.unwrap_err();
    assert_eq!((kind(&error), code(&error)), ("blob", "not a 32-byte key"));
}

#[tokio::test]
async fn an_unknown_key_is_of_the_key() {
    let unknown = format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/6f2e8a4c-0d51-4f3b-9a77-2b1c5e9d8f10");
    let kms = connect(&unknown, Moto::shared().url()).await.unwrap();
    let error = kms.generate_data_key(&context(&[])).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("GenerateDataKey under {unknown} is not possible (NotFoundException)")
    );
    let error = connect("alias/never-made", Moto::shared().url()).await.unwrap_err();
    assert_eq!(error.to_string(), "DescribeKey under alias/never-made is not possible (NotFoundException)");
}

#[tokio::test]
async fn every_name_of_a_key_resolves_to_its_arn() {
    let key = Moto::shared().create_key().await;
    let id = key.rsplit('/').next().unwrap();
    let alias = format!("alias/of-{id}");
    Moto::shared().create_alias(&alias, &key).await;
    for name in [&key, id, &alias, &format!("arn:aws:kms:{REGION}:{ACCOUNT}:{alias}")] {
        assert_eq!(connect(name, Moto::shared().url()).await.unwrap().key_name(), key, "{name}");
    }
}

#[tokio::test]
async fn an_alias_resolves_for_a_role_that_may_only_use_the_key() {
    let key = Moto::shared().create_key().await;
    let alias = format!("alias/use-only-{}", key.rsplit('/').next().unwrap());
    Moto::shared().create_alias(&alias, &key).await;
    let proxy = FaultProxy::start(Moto::shared().url());
    proxy.inject(Rule::every(Fault::DENY).of("DescribeKey"));
    let kms = connect(&alias, &proxy.url()).await.unwrap();
    assert_eq!(kms.key_name(), key);
    assert_eq!((proxy.requests("DescribeKey"), proxy.requests("GenerateDataKey")), (1, 1));

    // Neither: then the answer is that it is denied, not that the key has no ARN.
    proxy.inject(Rule::every(Fault::DENY).of("GenerateDataKey"));
    let error = connect(&alias, &proxy.url()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("GenerateDataKey under {alias} is not possible (AccessDeniedException)")
    );
}

#[tokio::test]
async fn a_key_arn_says_its_region() {
    let key = Moto::shared().create_key().await;
    let elsewhere = moto::settings(Moto::shared().url()).region(Region::new("us-west-2")).load().await;
    let kms = AwsKms::connect_with(&name(&key), &elsewhere).await.unwrap();
    kms.generate_data_key(&context(&[])).await.unwrap();
}

#[tokio::test]
async fn trouble_that_passes_is_waited_out() {
    let (proxy, kms) = through_proxy().await;
    let none = context(&[]);
    for fault in [Fault::THROTTLE, Fault::BREAK, Fault::LoseReply] {
        let (calls, seen) = (kms.calls(), proxy.requests("GenerateDataKey"));
        proxy.inject(Rule::next(2, fault));
        let made = kms.generate_data_key(&none).await.unwrap();
        assert_eq!(kms.decrypt(&made.wrapped, &none).await.unwrap(), made.key);
        assert_eq!(proxy.requests("GenerateDataKey") - seen, 3, "{fault:?}");
        assert_eq!(kms.calls() - calls, 4, "{fault:?}");
        proxy.clear();
    }
}

#[tokio::test]
async fn trouble_that_stays_is_of_the_service_and_judges_nothing() {
    let (proxy, kms) = impatient().await;
    let none = context(&[]);
    let wrapped = kms.generate_data_key(&none).await.unwrap().wrapped;
    for (fault, expected) in [
        (Fault::THROTTLE, "ThrottlingException"),
        (Fault::BREAK, "KMSInternalException"),
        (Fault::Refuse(500, "KeyUnavailableException"), "KeyUnavailableException"),
        (Fault::Refuse(503, "DependencyTimeoutException"), "DependencyTimeoutException"),
        (Fault::LoseReply, "connection failed"),
        (Fault::Delay(Duration::from_secs(2)), "timed out"),
    ] {
        let seen = proxy.requests("Decrypt");
        proxy.inject(Rule::every(fault));
        let error = kms.decrypt(&wrapped, &none).await.unwrap_err();
        assert_eq!((kind(&error), code(&error)), ("service", expected), "{fault:?}");
        assert_eq!(proxy.requests("Decrypt") - seen, 3, "{fault:?}");
        assert!(!format!("{error} {error:?}").contains(MESSAGE));
        proxy.clear();
    }
    kms.decrypt(&wrapped, &none).await.unwrap();
}

#[tokio::test]
async fn a_key_that_may_not_be_used_is_of_the_key_and_not_tried_again() {
    let (proxy, kms) = through_proxy().await;
    let none = context(&[]);
    let wrapped = kms.generate_data_key(&none).await.unwrap().wrapped;
    for code in
        ["AccessDeniedException", "DisabledException", "KMSInvalidStateException", "ExpiredTokenException"]
    {
        let calls = kms.calls();
        proxy.inject(Rule::every(Fault::Refuse(400, code)));
        let key = kms.key_name().to_owned();
        let (decrypt, generate) = ("Decrypt", "GenerateDataKey");
        assert_eq!(
            kms.decrypt(&wrapped, &none).await.unwrap_err(),
            KmsError::Key { operation: decrypt, key: key.clone(), code: code.to_owned() }
        );
        assert_eq!(
            kms.generate_data_key(&none).await.unwrap_err(),
            KmsError::Key { operation: generate, key, code: code.to_owned() }
        );
        assert_eq!(kms.calls() - calls, 2);
        proxy.clear();
    }
}

#[tokio::test]
async fn a_blob_under_another_key_is_of_the_blob() {
    let (proxy, kms) = through_proxy().await;
    let wrapped = kms.generate_data_key(&context(&[])).await.unwrap().wrapped;
    proxy.inject(Rule::next(1, Fault::Refuse(400, "IncorrectKeyException")));
    assert_eq!(
        kms.decrypt(&wrapped, &context(&[])).await.unwrap_err(),
        KmsError::Blob { operation: "Decrypt", code: "IncorrectKeyException".to_owned() }
    );
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_fails_soon() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let key = format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/6f2e8a4c-0d51-4f3b-9a77-2b1c5e9d8f10");
    let kms = connect(&key, &nobody).await.unwrap();
    let start = Instant::now();
    let error = kms.generate_data_key(&context(&[])).await.unwrap_err();
    assert_eq!(
        error,
        KmsError::Service { operation: "GenerateDataKey", code: "connection failed".to_owned() }
    );
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(kms.calls(), 8);
}

#[tokio::test]
async fn calls_at_once_each_get_their_own_key() {
    let key = Moto::shared().create_key().await;
    let kms = std::sync::Arc::new(connect(&key, Moto::shared().url()).await.unwrap());
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let kms = kms.clone();
            tokio::spawn(async move {
                let made = kms.generate_data_key(&context(&[])).await.unwrap();
                assert_eq!(kms.decrypt(&made.wrapped, &context(&[])).await.unwrap(), made.key);
                made.wrapped
            })
        })
        .collect();
    let mut blobs = std::collections::BTreeSet::new();
    for task in tasks {
        blobs.insert(task.await.unwrap());
    }
    assert_eq!((blobs.len(), kms.calls()), (16, 32));
}

/// The environment is a process's own, so what is read from it is tested in a child: this test, run by the next.
#[tokio::test]
#[ignore = "the child of the_standard_environment_configures_it"]
async fn child_connects_as_its_environment_says() {
    match AwsKms::connect(&name(&env::var("RESEAL_TEST_KEY").unwrap())).await {
        Ok(kms) => {
            kms.generate_data_key(&context(&[])).await.unwrap();
            println!("connected: {}", kms.key_name());
        }
        Err(error) => println!("refused: {error}"),
    }
}

#[tokio::test]
async fn the_standard_environment_configures_it() {
    let key = Moto::shared().create_key().await;
    let alias = format!("alias/env-{}", key.rsplit('/').next().unwrap());
    Moto::shared().create_alias(&alias, &key).await;
    let child = |key: &str, without: &[&str]| {
        let environment = Moto::shared().env().into_iter().filter(|(name, _)| !without.contains(name));
        let output = Command::new(env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "kms::aws::child_connects_as_its_environment_says"])
            .env_clear()
            .envs(environment)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("RESEAL_TEST_KEY", key)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let connected = format!("connected: {key}");
    for (output, expected) in [
        (child(&key, &[]), connected.as_str()),
        (child(&alias, &[]), &connected),
        (child(&key, &["AWS_REGION"]), &connected),
        (child(&alias, &["AWS_REGION"]), "refused: no AWS region is configured: set AWS_REGION"),
        (child(&key, &["AWS_ACCESS_KEY_ID"]), "refused: no AWS credentials ("),
    ] {
        assert!(output.contains(expected), "{output} has no {expected}");
    }
}
