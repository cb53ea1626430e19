//! `status --watch`, without a terminal: a look now and then, and a last one when it is left.

use std::{
    io::{BufRead, BufReader},
    process::Child,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::Running;
use crate::cli::operator::Operator;

/// Its standard output, line by line.
fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_a_run_from_another_process_until_ctrl_c_or_its_end() {
    let (operator, _database, _pool) = Operator::on_postgres("control_watch", 900).await;
    operator.reseal(&["init"]).exits(0);
    let mut early = operator.start(&["status", "--watch", "--output", "json"]);
    let slowly = ["--batch", "10", "--max-rows-per-second", "100"];
    let running = Running::start(&operator, &slowly);

    // It was there before the run, and is left before its end.
    let mut seen = lines(&mut early).map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let moving = seen.find(|look| look["rows_per_second"].as_i64().is_some_and(|rate| rate > 0)).unwrap();
    assert_eq!(moving["state"], "running");
    assert!(moving["seconds_left"].as_i64().unwrap() <= 30, "{moving}");
    assert_eq!(moving["processes"][0]["workers"], 2);
    assert_eq!(moving["processes"][0]["alive"], true);
    assert_eq!(moving["shards"]["leased"].as_i64().unwrap() + moving["shards"]["done"].as_i64().unwrap(), 1);
    kill_process(Pid::from_child(&early), Signal::INT).unwrap();
    let last = seen.last().unwrap();
    assert_eq!(last["command"], "status");
    assert_eq!(early.wait().unwrap().code(), Some(0));

    // In words, to the end.
    let mut late = operator.start(&["status", "--watch"]);
    let mut seen = lines(&mut late);
    let line = seen.next().unwrap();
    assert!(line.starts_with("sweep 1: ") && line.contains(" of 900 rows, "), "{line}");
    operator.reseal(&["set", "rate", "off"]).exits(0);
    let rest = seen.collect::<Vec<_>>();
    assert!(rest.iter().any(|line| line.contains(" is complete.")), "{rest:?}");
    assert_eq!(late.wait().unwrap().code(), Some(0));
    assert_eq!(running.said().code, 0);
    let done = operator.reseal(&["status", "--output", "json"]).exits(0).json();
    assert_eq!((&done["processes"], &done["seconds_left"]), (&json!([]), &json!(null)));
}
