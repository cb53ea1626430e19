//! Metrics, as Prometheus and `node_exporter` read them.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use super::{Running, number, scanned};
use crate::cli::operator::{Operator, with_keys};

/// The samples of a text in Prometheus's format, by name and labels. Every sample's family was announced before it.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let (mut samples, mut families) = (BTreeMap::new(), Vec::new());
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            families.push(family.split(' ').next().unwrap().to_owned());
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let base = name.split('{').next().unwrap();
            let suffixes = ["", "_bucket", "_sum", "_count"];
            assert!(
                families
                    .iter()
                    .any(|family| suffixes.iter().any(|suffix| format!("{family}{suffix}") == base)),
                "{line}"
            );
            samples.insert(name.to_owned(), value.parse().unwrap());
        }
    }
    samples
}

/// What a server says to a request, head and body.
fn ask(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_scraped_and_leaves_a_file() {
    let (operator, _database, pool) = Operator::on_postgres("control_metrics", 900).await;
    operator.reseal(&["init"]).exits(0);
    let metrics = ["--metrics-listen", "0", "--metrics-file", "reseal.prom"];
    let slowly = ["--batch", "10", "--max-rows-per-second", "200"];
    let mut running = Running::start(&operator, &[metrics.as_slice(), &slowly].concat());
    let mut errors = BufReader::new(running.0.as_mut().unwrap().stderr.take().unwrap()).lines();
    let address = errors.by_ref().map(Result::unwrap).find_map(|line| {
        let address = line.strip_prefix("metrics at http://")?.strip_suffix("/metrics")?;
        Some(address.to_owned())
    });
    let address = address.unwrap();
    assert!(address.starts_with("127.0.0.1:"), "loopback alone: {address}");

    let started = Instant::now();
    let now = loop {
        let (head, body) = ask(&address, "GET /metrics HTTP/1.1\r\nHost: here\r\nAccept: */*\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("version=0.0.4"), "{head}");
        let now = samples(&body);
        if now["reseal_rows_total"] >= 100.0 && now["reseal_waiting{reason=\"rate\"}"] > 0.0 {
            break now;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(scanned(&pool).await >= 100);
    assert_eq!(now["reseal_workers"], 2.0);
    assert_eq!(now["reseal_batch_seconds_count"], now["reseal_rows_total"] / 10.0);
    assert_eq!(now["reseal_waiting{reason=\"paused\"}"], 0.0);
    let info = now.keys().find(|name| name.starts_with("reseal_run_info{")).unwrap();
    assert!(info.contains("target=\"org_instances\"") && info.contains("state=\"running\""), "{info}");

    let (head, _) = ask(&address, "GET / HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    let (head, _) = ask(&address, "POST /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");

    // The address is taken: another run that asks for it is refused, and has done nothing.
    let before = number(&pool, "SELECT count(*) FROM reseal_audit").await;
    let refused = operator.reseal(&with_keys(&["run"], &["--metrics-listen", &address])).exits(4);
    assert!(
        refused.err.contains(&format!("cannot serve metrics at {address}: address in use")),
        "{}",
        refused.err
    );
    assert_eq!(number(&pool, "SELECT count(*) FROM reseal_audit").await, before);

    operator.reseal(&["set", "rate", "off"]).exits(0);
    drop(errors);
    let done = running.said();
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    let text = fs::read_to_string(operator.path("reseal.prom")).unwrap();
    let last = samples(&text);
    let total: f64 =
        last.iter().filter(|(name, _)| name.starts_with("reseal_values_total")).map(|(_, n)| n).sum();
    assert_eq!((last["reseal_rows_total"], total), (900.0, 1800.0), "{text}");
    let rekeyed = number(&pool, "SELECT sum(rekeyed)::bigint FROM reseal_shards").await;
    assert_eq!(last["reseal_values_total{class=\"rekeyed\"}"].to_string(), rekeyed.to_string());
    for value in [text.as_str(), &address] {
        assert!(!value.contains("OLD_KEY"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_or_a_file_that_can_t_be_is_refused_before_anything_is_written() {
    let (operator, _database, pool) = Operator::on_postgres("control_address", 5).await;
    operator.reseal(&["init"]).exits(0);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (flag, value, code) in [
        ("--metrics-listen", port.as_str(), 4),
        ("--metrics-listen", "no such place", 2),
        ("--metrics-listen", "127.0.0.1:99999", 2),
        ("--metrics-file", "missing/reseal.prom", 4),
    ] {
        let refused = operator.reseal(&with_keys(&["run"], &[flag, value])).exits(code);
        assert!(!refused.hints().is_empty(), "{}", refused.err);
    }
    assert_eq!(number(&pool, "SELECT count(*) FROM reseal_runs").await, 0);
}
