//! A key of AWS KMS.
//!
//! Configuration is the AWS one: region, profiles, the credentials chain, `AWS_ENDPOINT_URL_KMS`. The key is
//! resolved to its ARN once, at the start, and every call names that ARN, so that neither an alias that is moved
//! later nor a blob that somebody planted decides which key answers.
//!
//! A throttled, timed out or failed attempt is tried again, with exponential backoff and jitter, before a call
//! fails. Every attempt, first or repeated, waits for its turn within the account's [`Quota`], which is why the
//! repeating is done here and not by the SDK. Plaintext keys are wiped as soon as the SDK hands them over; its own HTTP
//! and JSON buffers are out of reach and are freed unwiped.

mod name;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use aws_config::{
    BehaviorVersion, ConfigLoader, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_sdk_kms::{
    Client,
    config::{ProvideCredentials, http::HttpResponse},
    error::{ProvideErrorMetadata, SdkError},
    operation::{decrypt::DecryptOutput, generate_data_key::GenerateDataKeyOutput},
    primitives::Blob,
    types::{DataKeySpec, DryRunModifierType},
};
use rand::RngExt;
use tokio::time::sleep;
use zeroize::Zeroizing;

pub use self::name::{AwsKeyName, NotAnAwsKeyName};
use super::{
    ConnectError, Context, GeneratedKey, Kms, KmsError, Locality, Material, Operation, Quota, Standing,
};
use crate::secret::DataKey;

/// The longest ciphertext blob that KMS takes, in bytes (API Reference, Decrypt, `CiphertextBlob`).
const BLOB_LIMIT: usize = 6144;

/// One key of AWS KMS, by its ARN.
#[derive(Debug)]
pub struct AwsKms {
    client: Client,
    arn: String,
    retries: RetryConfig,
    quota: Arc<Quota>,
    calls: AtomicU64,
}

impl AwsKms {
    /// The standard AWS configuration, with the retries and time-outs for calls that a run waits for.
    ///
    /// At most 8 attempts, between them a random part of 0.2 s, doubled each time up to 5 s; 3 s to connect and
    /// 10 s for an attempt. A KMS that refuses connections fails within 17 s, one that hangs within 100 s.
    pub fn settings() -> ConfigLoader {
        aws_config::defaults(BehaviorVersion::latest())
            .retry_config(
                RetryConfig::standard()
                    .with_max_attempts(8)
                    .with_initial_backoff(Duration::from_millis(200))
                    .with_max_backoff(Duration::from_secs(5)),
            )
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(Duration::from_secs(3))
                    .operation_attempt_timeout(Duration::from_secs(10))
                    .build(),
            )
    }

    /// Connects to the key `name` with [`settings`](Self::settings).
    ///
    /// # Errors
    /// No region or no credentials; or the key could not be resolved. A key ARN is taken as it is: that the key
    /// can be used, only its first use shows.
    pub async fn connect(name: &AwsKeyName) -> Result<Self, ConnectError> {
        Self::connect_with(name, &Self::settings().load().await).await
    }

    /// Connects to the key `name` with a configuration of the caller's, retries and time-outs included. The
    /// region that an ARN names goes before the configured one.
    ///
    /// # Errors
    /// As of [`connect`](Self::connect).
    pub async fn connect_with(name: &AwsKeyName, config: &SdkConfig) -> Result<Self, ConnectError> {
        Self::connect_within(name, config, Arc::default()).await
    }

    /// The same, sharing `quota` with the other keys of the account.
    ///
    /// # Errors
    /// As of [`connect`](Self::connect).
    pub async fn connect_within(
        name: &AwsKeyName,
        config: &SdkConfig,
        quota: Arc<Quota>,
    ) -> Result<Self, ConnectError> {
        let region = match name.region() {
            Some(region) => Region::new(region.to_owned()),
            None => config.region().cloned().ok_or(ConnectError::NoRegion)?,
        };
        // Asked for once here, since the SDK reports missing credentials as a failed connection, on first use.
        let no_credentials = |reason: String| ConnectError::NoCredentials { reason };
        let provider =
            config.credentials_provider().ok_or_else(|| no_credentials("none configured".into()))?;
        provider.provide_credentials().await.map_err(|error| no_credentials(error.to_string()))?;

        let retries = config.retry_config().cloned().unwrap_or_else(RetryConfig::standard);
        let config = aws_sdk_kms::config::Builder::from(config)
            .region(region)
            .retry_config(RetryConfig::disabled())
            .build();
        let (client, arn) = (Client::from_conf(config), name.as_str().to_owned());
        let mut kms = Self { client, arn, retries, quota, calls: AtomicU64::new(0) };
        if !name.is_key_arn() {
            kms.arn = kms.resolve().await?;
        }
        Ok(kms)
    }

    /// The ARN of the key that is still named by an alias or id. `DescribeKey` says; a role that may only use the
    /// key learns it from the answer to `GenerateDataKey`.
    async fn resolve(&self) -> Result<String, KmsError> {
        const OPERATION: &str = "DescribeKey";
        let request = self.client.describe_key().key_id(&self.arn);
        match self.ask(OPERATION, || request.clone().send()).await {
            Ok(answer) => answer
                .key_metadata
                .and_then(|key| key.arn)
                .ok_or_else(|| service(OPERATION, "no key ARN in the answer")),
            Err(KmsError::Key { code, .. }) if code == "AccessDeniedException" => {
                let mut answer = self.generate(&Context::new(), Run::Real).await?;
                drop(plaintext(answer.plaintext.take()));
                answer.key_id.ok_or_else(|| service(GENERATE, "no key ARN in the answer"))
            }
            Err(error) => Err(error),
        }
    }

    async fn unwrap(&self, wrapped: &[u8], context: &Context) -> Result<DecryptOutput, KmsError> {
        if wrapped.is_empty() || wrapped.len() > BLOB_LIMIT {
            return Err(refused("not 1 to 6144 bytes"));
        }
        let request = self
            .client
            .decrypt()
            .key_id(&self.arn)
            .ciphertext_blob(Blob::new(wrapped))
            .set_encryption_context(sent(context));
        self.ask(DECRYPT, || request.clone().send()).await
    }

    async fn generate(&self, context: &Context, run: Run) -> Result<GenerateDataKeyOutput, KmsError> {
        let request = self
            .client
            .generate_data_key()
            .key_id(&self.arn)
            .key_spec(DataKeySpec::Aes256)
            .set_dry_run((run == Run::Dry).then_some(true))
            .set_encryption_context(sent(context));
        self.ask(GENERATE, || request.clone().send()).await
    }

    /// Sends a request until it is answered by anything but trouble with the service, each time when it is its turn.
    ///
    /// # Errors
    /// The first verdict on the key or the blob, or the last trouble once the attempts are spent.
    async fn ask<T, E, F>(&self, operation: &'static str, send: impl Fn() -> F) -> Result<T, KmsError>
    where
        E: ProvideErrorMetadata,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let mut attempt = 1;
        loop {
            self.quota.turn().await;
            self.calls.fetch_add(1, Ordering::Relaxed);
            let error = match send().await {
                Ok(answer) => {
                    self.quota.accepted();
                    return Ok(answer);
                }
                Err(error) => classify(operation, &self.arn, error),
            };
            match &error {
                KmsError::Service { code, .. } if is_throttle(code) => self.quota.refused(),
                KmsError::Service { .. } => {}
                KmsError::Blob { .. } | KmsError::Key { .. } => {
                    self.quota.accepted();
                    return Err(error);
                }
            }
            if attempt >= self.retries.max_attempts() {
                return Err(error);
            }
            sleep(self.backoff(attempt)).await;
            attempt += 1;
        }
    }

    /// How long to wait after so many attempts: a random part of a time that doubles.
    fn backoff(&self, attempt: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(attempt - 1);
        let longest = self.retries.initial_backoff().saturating_mul(doubled).min(self.retries.max_backoff());
        longest.mul_f64(rand::rng().random())
    }
}

/// Whether an operation is to be done, or only to be judged. A dry run is billed as a request and counts for the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    Real,
    Dry,
}

const GENERATE: &str = "GenerateDataKey";
const DECRYPT: &str = "Decrypt";
const RE_ENCRYPT: &str = "ReEncrypt";

#[async_trait]
impl Kms for AwsKms {
    fn key_name(&self) -> &str {
        &self.arn
    }

    fn locality(&self) -> Locality {
        Locality::Remote
    }

    async fn generate_data_key(&self, context: &Context) -> Result<GeneratedKey, KmsError> {
        let mut answer = self.generate(context, Run::Real).await?;
        let key = DataKey::from_slice(&plaintext(answer.plaintext.take()))
            .ok_or_else(|| service(GENERATE, "no 32-byte key in the answer"))?;
        let wrapped = answer.ciphertext_blob.map(Blob::into_inner).unwrap_or_default();
        if wrapped.is_empty() || wrapped.len() > BLOB_LIMIT {
            return Err(service(GENERATE, "no ciphertext in the answer"));
        }
        if answer.key_id.as_deref() != Some(&self.arn) {
            return Err(service(GENERATE, "another key answered"));
        }
        Ok(GeneratedKey { key, wrapped })
    }

    async fn decrypt(&self, wrapped: &[u8], context: &Context) -> Result<DataKey, KmsError> {
        let mut answer = self.unwrap(wrapped, context).await?;
        let plaintext = plaintext(answer.plaintext.take());
        match answer.key_id {
            None => Err(service(DECRYPT, "no key ARN in the answer")),
            Some(key) if key != self.arn => Err(refused("wrapped under another key")),
            Some(_) => DataKey::from_slice(&plaintext).ok_or_else(|| refused("not a 32-byte key")),
        }
    }

    /// One ReEncrypt where both keys are of AWS and of one region. It names the source key too, which is the caller's
    /// and not the blob's choice.
    async fn re_encrypt(
        &self,
        wrapped: &[u8],
        context: &Context,
        source: &dyn Kms,
    ) -> Result<Vec<u8>, KmsError> {
        let region = |arn: &str| arn.parse::<AwsKeyName>().ok()?.region().map(str::to_owned);
        if region(source.key_name()) != region(&self.arn) {
            let code = format!("{} is not of its service and region", source.key_name());
            return Err(KmsError::Key { operation: RE_ENCRYPT, key: self.arn.clone(), code });
        }
        if wrapped.is_empty() || wrapped.len() > BLOB_LIMIT {
            return Err(refused("not 1 to 6144 bytes"));
        }
        let request = self
            .client
            .re_encrypt()
            .ciphertext_blob(Blob::new(wrapped))
            .source_key_id(source.key_name())
            .set_source_encryption_context(sent(context))
            .destination_key_id(&self.arn)
            .set_destination_encryption_context(sent(context));
        let answer = self.ask(RE_ENCRYPT, || request.clone().send()).await?;
        if answer.source_key_id.as_deref() != Some(source.key_name()) {
            return Err(refused("wrapped under another key"));
        }
        if answer.key_id.as_deref() != Some(&self.arn) {
            return Err(service(RE_ENCRYPT, "another key answered"));
        }
        let wrapped = answer.ciphertext_blob.map(Blob::into_inner).unwrap_or_default();
        if wrapped.is_empty() || wrapped.len() > BLOB_LIMIT {
            return Err(service(RE_ENCRYPT, "no ciphertext in the answer"));
        }
        Ok(wrapped)
    }

    /// `KeyMaterialId` of a Decrypt, which is that of the blob, against that of a GenerateDataKey, which is the current
    /// one (API Reference of both, Response Elements).
    async fn material(&self, wrapped: &[u8], context: &Context) -> Result<Option<Material>, KmsError> {
        let mut opened = self.unwrap(wrapped, context).await?;
        drop(plaintext(opened.plaintext.take()));
        let mut fresh = self.generate(context, Run::Real).await?;
        drop(plaintext(fresh.plaintext.take()));
        Ok(opened
            .key_material_id
            .zip(fresh.key_material_id)
            .map(|(then, now)| if then == now { Material::Current } else { Material::Stale }))
    }

    /// By `DryRun`. A service that stands in for AWS may not know it and make the data key; then that one is unwrapped
    /// for real. Else no blob is sent: `IGNORE_CIPHERTEXT` asks for the permission alone (API Reference, Decrypt).
    async fn preflight(&self, operation: Operation, context: &Context) -> Standing {
        let generated = self.generate(context, Run::Dry).await.map(|mut answer| {
            drop(plaintext(answer.plaintext.take()));
            answer.ciphertext_blob.map(Blob::into_inner).unwrap_or_default()
        });
        match (operation, generated) {
            (Operation::GenerateDataKey, generated) => generated.into(),
            (Operation::Decrypt, Ok(wrapped)) => self.decrypt(&wrapped, context).await.into(),
            (Operation::Decrypt, Err(_)) => {
                let request = self
                    .client
                    .decrypt()
                    .key_id(&self.arn)
                    .set_encryption_context(sent(context))
                    .dry_run(true)
                    .dry_run_modifiers(DryRunModifierType::IgnoreCiphertext);
                self.ask(DECRYPT, || request.clone().send()).await.into()
            }
        }
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn quota(&self) -> Option<&Quota> {
        Some(&self.quota)
    }
}

/// The plaintext of an answer, wiped on drop.
fn plaintext(blob: Option<Blob>) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(blob.map(Blob::into_inner).unwrap_or_default())
}

fn sent(context: &Context) -> Option<std::collections::HashMap<String, String>> {
    (!context.is_empty()).then(|| context.clone().into_iter().collect())
}

fn refused(code: &str) -> KmsError {
    KmsError::Blob { operation: DECRYPT, code: code.to_owned() }
}

fn service(operation: &'static str, code: &str) -> KmsError {
    KmsError::Service { operation, code: code.to_owned() }
}

/// Whose move is next after `error`. Of what the service said, only the code is kept.
fn classify<E: ProvideErrorMetadata>(
    operation: &'static str,
    key: &str,
    error: SdkError<E, HttpResponse>,
) -> KmsError {
    match error {
        SdkError::ServiceError(error) => {
            refusal(operation, key, error.err().code(), error.raw().status().as_u16())
        }
        SdkError::TimeoutError(_) => service(operation, "timed out"),
        SdkError::DispatchFailure(error) if error.is_timeout() => service(operation, "timed out"),
        SdkError::DispatchFailure(error) if error.is_io() || error.as_other().is_some() => {
            service(operation, "connection failed")
        }
        SdkError::ResponseError(_) => service(operation, "unreadable answer"),
        // Credentials that could not be renewed, for one.
        _ => service(operation, "not sent"),
    }
}

/// Sorts an error answer, by its code and HTTP status.
///
/// An unknown code of a 4xx answer is about the key or the caller (no valid credentials, say): trying again would
/// not help, and no value is judged by it. `KeyUnavailableException` is of the service: it is a 500, and the API
/// Reference says "you can retry the request". `KMSInvalidStateException` is a 409 or 400 about the key's state.
fn refusal(operation: &'static str, key: &str, code: Option<&str>, status: u16) -> KmsError {
    let Some(code) = code.filter(|code| is_code(code)) else {
        // Not KMS, or not in its words: a proxy or load balancer on the way.
        return service(operation, &format!("http {status}"));
    };
    let code = code.to_owned();
    match code.as_str() {
        "InvalidCiphertextException" | "IncorrectKeyException" => KmsError::Blob { operation, code },
        code if is_throttle(code) => KmsError::Service { operation, code: code.to_owned() },
        "RequestTimeout"
        | "RequestTimeoutException"
        | "KMSInternalException"
        | "DependencyTimeoutException"
        | "KeyUnavailableException" => KmsError::Service { operation, code },
        _ if status == 429 || status >= 500 => KmsError::Service { operation, code },
        _ => KmsError::Key { operation, key: key.to_owned(), code },
    }
}

/// Whether the service refuses a call for being one too many.
fn is_throttle(code: &str) -> bool {
    [
        "ThrottlingException",
        "Throttling",
        "ThrottledException",
        "LimitExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "SlowDown",
        "http 429",
    ]
    .contains(&code)
}

/// Whether `code` is one word, as error codes are, and so can be shown without letting an answer write into a log.
fn is_code(code: &str) -> bool {
    (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: &str, status: u16) -> &'static str {
        match refusal(DECRYPT, "arn", Some(code), status) {
            KmsError::Blob { .. } => "blob",
            KmsError::Key { .. } => "key",
            KmsError::Service { .. } => "service",
        }
    }

    #[test]
    fn every_refusal_of_decrypt_has_its_kind() {
        // API Reference, Decrypt, Errors; and Common Errors.
        for (code, status, expected) in [
            ("InvalidCiphertextException", 400, "blob"),
            ("IncorrectKeyException", 400, "blob"),
            ("AccessDeniedException", 400, "key"),
            ("NotFoundException", 400, "key"),
            ("DisabledException", 409, "key"),
            ("KMSInvalidStateException", 409, "key"),
            ("InvalidKeyUsageException", 400, "key"),
            ("InvalidGrantTokenException", 400, "key"),
            ("UnrecognizedClientException", 403, "key"),
            ("ExpiredTokenException", 403, "key"),
            ("ValidationException", 400, "key"),
            ("ThrottlingException", 400, "service"),
            ("LimitExceededException", 400, "service"),
            ("DependencyTimeoutException", 503, "service"),
            ("KeyUnavailableException", 500, "service"),
            ("KMSInternalException", 500, "service"),
            ("InternalFailure", 500, "service"),
            ("ServiceUnavailable", 503, "service"),
        ] {
            assert_eq!(kind(code, status), expected, "{code}");
        }
    }

    #[test]
    fn an_answer_in_no_words_of_the_kms_judges_neither_key_nor_value() {
        let error = refusal(DECRYPT, "arn", Some("<html>\nforged log line"), 403);
        assert_eq!(error, service(DECRYPT, "http 403"));
        assert_eq!(refusal(DECRYPT, "arn", None, 400), service(DECRYPT, "http 400"));
    }
}
