//! Everything through a pooler in transaction mode, with fewer connections than clients.

use std::sync::Arc;

use reseal::{
    envelope::Format,
    rekey::{self, Intent, Outcome},
};

use super::stage::{OLD, Stage, Under};
use crate::support::{pgbouncer::PgBouncer, postgres::TempPostgres};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_through_a_pooler_is_like_any_other() {
    let pooler = PgBouncer::start(TempPostgres::shared());
    let database = TempPostgres::shared().database("pooled");
    let url = pooler.url(&database.name);
    let mut stage = Stage::build(database, &url, 3000).await;
    assert_eq!(stage.store.migrate().await.unwrap(), [""; 0], "a second init finds all done");
    stage.options.workers = 2;
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let new = format!("local-kms:{}", keyring.display());
    for (choice, under) in [
        (stage.choice(Format::V3, &[&old], &new), Under::Bound(&keyring)),
        (stage.choice(Format::V1, &[&new], &old), Under::Static(&OLD)),
    ] {
        let job = Arc::new(stage.job(&choice, Intent::Look).await);
        let census = rekey::census(&job).await.unwrap();
        assert_eq!((census.rows, census.refused.len()), (3000, 0));
        let report = stage.run(&choice).await;
        assert_eq!((report.outcome, report.tally.scanned), (Outcome::Complete, 3000));
        assert_eq!((report.tally.total, report.tally.rekeyed), stage.cells());
        assert!(report.tally.sums());
        assert_eq!(stage.differences(under).await, [""; 0]);
        assert!(stage.verify(&choice).await.passed());
    }
}
