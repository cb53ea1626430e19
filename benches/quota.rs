//! How much of a KMS quota a run to v2 uses: the program itself, on SQLite, against a KMS that answers after 5 ms and
//! refuses what is above its quota in any second of its clock.
//!
//! `cargo bench --bench quota -- [--rows N]`, two calls a row: one makes the data key, one proves that it unwraps. Once with
//! the quota given to the program (`--max-kms-calls-per-second`), once left to find out.

#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a report of timings"
)]

use std::{
    collections::HashMap,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{Json, Router, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use support::tenants;

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "the tests' support serves here too, in part")]
mod support;

const QUOTA: usize = 1000;
const LATENCY: Duration = Duration::from_millis(5);
const ARN: &str = "arn:aws:kms:eu-central-1:123456789012:key/0b5a7c3e-9d41-4f0e-8a52-6c1d2e3f4a5b";
const OLD: [u8; 32] = [0x11; 32];

/// The calls that the KMS took and refused, by the second of its clock.
struct Kms {
    started: Instant,
    seconds: Mutex<HashMap<u64, (usize, usize)>>,
}

impl Kms {
    fn admit(&self) -> bool {
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let (taken, refused) = seconds.entry(self.started.elapsed().as_secs()).or_default();
        let admitted = *taken < QUOTA;
        *(if admitted { taken } else { refused }) += 1;
        admitted
    }
}

/// A wrapped key is its plaintext behind a mark: what is measured is time.
async fn call(State(kms): State<Arc<Kms>>, headers: HeaderMap, body: String) -> (StatusCode, Json<Value>) {
    let admitted = kms.admit();
    tokio::time::sleep(LATENCY).await;
    if !admitted {
        return (
            StatusCode::BAD_REQUEST,
            Json(json!({"__type": "ThrottlingException", "message": "Rate exceeded"})),
        );
    }
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let asked: Value = serde_json::from_str(&body).unwrap_or_default();
    let answer = match target {
        "TrentService.GenerateDataKey" => {
            let key: [u8; 32] = rand::random();
            let blob = [[0xA5; 152].as_slice(), &key].concat();
            json!({"KeyId": ARN, "Plaintext": STANDARD.encode(key), "CiphertextBlob": STANDARD.encode(blob)})
        }
        "TrentService.Decrypt" => {
            let blob =
                STANDARD.decode(asked["CiphertextBlob"].as_str().unwrap_or_default()).unwrap_or_default();
            let key = blob.get(152..).unwrap_or_default();
            json!({"KeyId": ARN, "Plaintext": STANDARD.encode(key), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"})
        }
        _ => json!({"KeyMetadata": {"KeyId": ARN, "Arn": ARN, "Enabled": true, "KeyState": "Enabled"}}),
    };
    (StatusCode::OK, Json(answer))
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let rows =
        arguments.iter().position(|argument| argument == "--rows").and_then(|at| arguments.get(at + 1));
    let rows: usize = rows.map_or(10_000, |rows| rows.parse().expect("a number"));
    println!(
        "| the program | rows | seconds | calls/s, first and last second left out | of the quota | refused |"
    );
    println!("|---|---|---|---|---|---|");
    for (name, limit) in [("is told the quota", Some(QUOTA)), ("finds it out", None)] {
        let kms = Arc::new(Kms { started: Instant::now(), seconds: Mutex::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        let service = Router::new().route("/", post(call)).with_state(Arc::clone(&kms));
        let server = tokio::spawn(async move { axum::serve(listener, service).await });
        let folder = tempfile::tempdir().expect("a folder can be had");
        fill(folder.path(), rows).await;
        let started = Instant::now();
        let path = folder.path().to_owned();
        tokio::task::spawn_blocking(move || run(&path, &url, limit)).await.expect("the run ends");
        report(name, rows, started.elapsed(), &kms);
        server.abort();
    }
}

fn report(name: &str, rows: usize, elapsed: Duration, kms: &Kms) {
    let seconds = kms.seconds.lock().unwrap_or_else(PoisonError::into_inner);
    let (first, last) = (seconds.keys().min().copied(), seconds.keys().max().copied());
    let whole: Vec<usize> = seconds
        .iter()
        .filter(|(second, _)| Some(**second) != first && Some(**second) != last)
        .map(|(_, (taken, _))| *taken)
        .collect();
    let rate = whole.iter().sum::<usize>() as f64 / whole.len().max(1) as f64;
    let refused: usize = seconds.values().map(|(_, refused)| refused).sum();
    let used = rate / QUOTA as f64 * 100.0;
    println!("| {name} | {rows} | {:.1} | {rate:.0} | {used:.1} % | {refused} |", elapsed.as_secs_f64());
}

async fn fill(folder: &Path, rows: usize) {
    support::private_file(&folder.join("old"), &hex::encode(OLD));
    let url = format!("sqlite://{}?mode=rwc", folder.join("t.db").display());
    let pool = sqlx::SqlitePool::connect(&url).await.expect("connects");
    tenants::Tenants { seed: 1, rows, key: &OLD }.fill_sqlite(&pool).await;
    pool.close().await;
}

fn run(folder: &Path, kms: &str, limit: Option<usize>) {
    let reseal = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reseal"));
        command
            .args(arguments)
            .current_dir(folder)
            .env("DATABASE_URL", format!("sqlite://{}", folder.join("t.db").display()))
            .env("AWS_ENDPOINT_URL_KMS", kms)
            .envs([
                ("AWS_REGION", "eu-central-1"),
                ("AWS_ACCESS_KEY_ID", "t"),
                ("AWS_SECRET_ACCESS_KEY", "t"),
            ])
            .envs([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")])
            .stdout(Stdio::null());
        assert!(command.status().expect("starts").success(), "reseal {}", arguments[0]);
    };
    reseal(&["init"]);
    let new = format!("aws-kms:{ARN}");
    let mut arguments = vec!["run", "--old", "static:file:old", "--new", &new, "--format", "v2"];
    let limit = limit.map(|limit| limit.to_string());
    if let Some(limit) = &limit {
        arguments.extend(["--max-kms-calls-per-second", limit]);
    }
    reseal(&arguments);
}
