//! AWS KMS as moto plays it: a process of its own, with real HTTP, JSON and AES-GCM.
//!
//! It differs from the service in ways that tests have to know: it enforces neither key states (disabled, pending
//! deletion) nor who may use a key, answers `AccessDeniedException` where AWS says `IncorrectKeyException` or, of
//! bytes that are no blob at all, `InvalidCiphertextException`, and does not check signatures. A
//! [`FaultProxy`](super::fault_proxy::FaultProxy) in front of it says what it does not.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use aws_config::{ConfigLoader, Region, SdkConfig};
use aws_sdk_kms::{Client, config::Credentials};
use reseal::keyring::kms::aws::AwsKms;

pub(crate) const REGION: &str = "eu-central-1";

/// The account that moto's keys are in.
pub(crate) const ACCOUNT: &str = "123456789012";

/// Serves on a free port, says which, and ends with the process that holds the other end of its standard input.
const SERVER: &str = "
import logging, os, sys
logging.disable(logging.CRITICAL)
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
server.start()
print('http://127.0.0.1:%d' % server.get_host_and_port()[1], flush=True)
sys.stdin.read()
os._exit(0)
";

/// A moto server. Killed on drop, and by the end of this process however it ends.
#[derive(Debug)]
pub(crate) struct Moto {
    server: Child,
    url: String,
}

impl Moto {
    /// Starts a server of one's own and waits until it listens. Needs a Python with `moto[server,kms]` in the
    /// virtual environment `$RESEAL_TEST_VENV`, by default `target/test-venv`.
    pub(crate) fn start() -> Self {
        let venv = env::var_os("RESEAL_TEST_VENV").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/test-venv"),
            PathBuf::from,
        );
        let python = venv.join("bin/python");
        let mut server = Command::new(&python)
            .args(["-c", SERVER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|cause| panic!("{} does not start: {cause}", python.display()));
        let mut url = String::new();
        let stdout = server.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut url).expect("moto says its address");
        let url = url.trim().to_owned();
        assert!(
            url.starts_with("http://"),
            "moto ended before it listened; is moto[server,kms] in the venv?"
        );
        Self { server, url }
    }

    /// The server that tests share which leave no trace but keys and aliases of their own.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Moto> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Its endpoint.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What a child process needs in its environment to have this server for AWS KMS, and nothing of the caller's.
    pub(crate) fn env(&self) -> [(&'static str, &str); 6] {
        [
            ("AWS_ENDPOINT_URL_KMS", &self.url),
            ("AWS_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ]
    }

    /// A client for what tests do besides the program: make keys, and look.
    pub(crate) async fn client(&self) -> Client {
        Client::new(&config(&self.url).await)
    }

    /// A new key; its ARN.
    pub(crate) async fn create_key(&self) -> String {
        let answer = self.client().await.create_key().send().await.expect("moto makes a key");
        answer.key_metadata.and_then(|key| key.arn).expect("a key has an ARN")
    }

    /// Points `alias` (`alias/NAME`), which must be new, to the key.
    pub(crate) async fn create_alias(&self, alias: &str, arn: &str) {
        let request = self.client().await.create_alias().alias_name(alias).target_key_id(arn);
        request.send().await.expect("moto makes an alias");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The program's own settings, pointed at `endpoint`, for a test to change further.
pub(crate) fn settings(endpoint: &str) -> ConfigLoader {
    AwsKms::settings()
        .endpoint_url(endpoint)
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
}

/// The program's own settings, pointed at `endpoint`.
pub(crate) async fn config(endpoint: &str) -> SdkConfig {
    settings(endpoint).load().await
}
