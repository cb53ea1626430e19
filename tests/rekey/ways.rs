//! From every format to every other, and back.

use reseal::{envelope::Format, rekey::Outcome};

use super::stage::{Database, OLD, Stage, Under};

const ROWS: usize = 1500;

fn sums<D: Database>(stage: &Stage<D>, report: &reseal::rekey::Report) {
    let cells = i64::try_from(2 * stage.expected.0.len()).unwrap();
    let sealed = i64::try_from(stage.expected.sealed()).unwrap();
    assert_eq!(report.outcome, Outcome::Complete);
    assert!(report.tally.sums());
    assert_eq!((report.tally.total, report.tally.rekeyed), (cells, sealed));
    assert_eq!(report.tally.empty, cells - sealed);
    assert_eq!((report.tally.conflicts, report.tally.quarantined), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn static_to_static_and_back() {
    static_to_static_and_back_on(Stage::new("v1_v1", ROWS).await).await;
    static_to_static_and_back_on(Stage::on_sqlite(ROWS).await).await;
}

async fn static_to_static_and_back_on<D: Database>(stage: Stage<D>) {
    let (old, new) = (stage.old(), stage.static_key("new", &[0x22; 32]));
    let there = stage.choice(Format::V1, &[&old], &new);
    let report = stage.run(&there).await;
    sums(&stage, &report);
    assert_eq!(stage.differences(Under::Static(&[0x22; 32])).await, [""; 0]);
    assert!(stage.verify(&there).await.passed());

    let back = stage.choice(Format::V1, &[&new], &old);
    assert!(!stage.verify(&back).await.passed(), "nothing is under the old key");
    sums(&stage, &stage.run(&back).await);
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn static_to_wrapped_and_back() {
    static_to_wrapped_and_back_on(Stage::new("v1_v2", ROWS).await).await;
    static_to_wrapped_and_back_on(Stage::on_sqlite(ROWS).await).await;
}

async fn static_to_wrapped_and_back_on<D: Database>(stage: Stage<D>) {
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let new = format!("local-kms:{}", keyring.display());
    let there = stage.choice(Format::V2, &[&old], &new);
    let report = stage.run(&there).await;
    sums(&stage, &report);
    // One call generates each row's data key and one proves it; the second sweep opens each value once.
    assert!(report.tally.kms_calls >= 2 * report.run.row_count, "{}", report.tally.kms_calls);
    assert_eq!(stage.differences(Under::Wrapped(&keyring)).await, [""; 0]);
    assert!(stage.verify(&there).await.passed());

    let back = stage.choice(Format::V1, &[&new], &old);
    sums(&stage, &stage.run(&back).await);
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);
    assert!(stage.verify(&back).await.passed());
}

#[tokio::test(flavor = "multi_thread")]
async fn static_to_bound_to_bound_and_back() {
    static_to_bound_to_bound_and_back_on(Stage::new("v1_v3", ROWS).await).await;
    static_to_bound_to_bound_and_back_on(Stage::on_sqlite(ROWS).await).await;
}

async fn static_to_bound_to_bound_and_back_on<D: Database>(stage: Stage<D>) {
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let new = format!("local-kms:{}", keyring.display());
    let there = stage.choice(Format::V3, &[&old], &new);
    let report = stage.run(&there).await;
    sums(&stage, &report);
    assert!(report.tally.kms_calls <= 4, "one data key serves the table: {} calls", report.tally.kms_calls);
    assert_eq!(stage.differences(Under::Bound(&keyring)).await, [""; 0]);
    assert!(stage.verify(&there).await.passed());

    let again = reseal::rekey::KeyChoice { new_data_key: true, ..stage.choice(Format::V3, &[&new], &new) };
    let report = stage.run(&again).await;
    sums(&stage, &report);
    let keys = stage.store.data_keys(None).await.unwrap();
    assert_eq!(keys.len(), 2);
    assert_eq!(stage.differences(Under::Bound(&keyring)).await, [""; 0]);
    assert!(stage.verify(&stage.choice(Format::V3, &[], &new)).await.passed());

    let back = stage.choice(Format::V1, &[&new], &old);
    sums(&stage, &stage.run(&back).await);
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrapped_to_bound() {
    wrapped_to_bound_on(Stage::new("v2_v3", ROWS).await).await;
    wrapped_to_bound_on(Stage::on_sqlite(ROWS).await).await;
}

async fn wrapped_to_bound_on<D: Database>(stage: Stage<D>) {
    let (old, first, second) = (stage.old(), stage.keyring("first"), stage.keyring("second"));
    let (from, to) = (format!("local-kms:{}", first.display()), format!("local-kms:{}", second.display()));
    sums(&stage, &stage.run(&stage.choice(Format::V2, &[&old], &from)).await);
    let choice = stage.choice(Format::V3, &[&from], &to);
    sums(&stage, &stage.run(&choice).await);
    assert_eq!(stage.differences(Under::Bound(&second)).await, [""; 0]);
    assert!(stage.verify(&choice).await.passed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_done_finds_all_current() {
    a_second_run_on(Stage::new("current", 300).await).await;
    a_second_run_on(Stage::on_sqlite(300).await).await;
}

async fn a_second_run_on<D: Database>(stage: Stage<D>) {
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let choice = stage.choice(Format::V2, &[&old], &format!("local-kms:{}", keyring.display()));
    let first = stage.run(&choice).await;
    let second = stage.run(&choice).await;
    assert_ne!(first.run.run_id, second.run.run_id);
    assert_eq!((second.tally.rekeyed, second.tally.current), (0, first.tally.rekeyed));
    assert_eq!(
        second.run.sweep, 2,
        "a walk over the table is never the last sweep, and the next finds nothing"
    );
}
