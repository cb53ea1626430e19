//! What has to be in the way of a run, for it to come to every step.

use std::{
    collections::BTreeMap,
    sync::{Mutex, mpsc},
    thread::{self, JoinHandle},
};

use reseal::rekey::{Moment, Step};

use super::road::{Pool, Road};

/// Which obstacles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Somebody writes under the old key: what is about to be committed, and behind the cursor.
    Plain,
    /// The pace is so slow that a lease has to be renewed.
    Paced,
    /// Somebody locks what is about to be committed, until it is passed over.
    Locked,
}

impl Way {
    /// The one that leads to this step.
    pub(super) fn to(step: Step) -> Self {
        match step {
            Step::Renew => Self::Paced,
            Step::DeferRow => Self::Locked,
            _ => Self::Plain,
        }
    }
}

/// The obstacles of one lap, and how often each step was met.
pub(super) struct Obstacles {
    road: Road,
    way: Way,
    met: Mutex<BTreeMap<(Step, Moment), u32>>,
    lock: Mutex<Option<Lock>>,
}

impl Obstacles {
    pub(super) fn new(road: &Road, way: Way) -> Self {
        Self { road: road.clone(), way, met: Mutex::default(), lock: Mutex::default() }
    }

    /// Puts up what belongs here; says which time the step is met.
    pub(super) fn meet(&self, step: Step, moment: Moment) -> u32 {
        let time = {
            let mut met = self.met.lock().unwrap();
            let time = met.entry((step, moment)).or_default();
            *time += 1;
            *time
        };
        let rewritten = &self.road.rewritten;
        match (self.way, step, moment, time) {
            (Way::Plain, Step::Commit, Moment::Before, 1) => {
                self.write(&rewritten.under_the_commit, "postgres://under/the/commit");
            }
            (Way::Plain, Step::NextSweep, Moment::Before, 1) => {
                self.write(&rewritten.behind_the_cursor, "postgres://behind/the/cursor");
            }
            (Way::Plain, Step::BeginSwap, Moment::Before, 1) => {
                self.write(&rewritten.under_the_swap, "postgres://under/the/swap");
            }
            (Way::Locked, Step::Commit, Moment::Before, 1) => {
                *self.lock.lock().unwrap() = Some(Lock::take(&self.road.url));
            }
            (Way::Locked, Step::DeferRow, Moment::Before, 1) => drop(self.lock.lock().unwrap().take()),
            _ => {}
        }
        time
    }

    /// How often each step was met.
    pub(super) fn met(&self) -> BTreeMap<(Step, Moment), u32> {
        self.met.lock().unwrap().clone()
    }

    fn write(&self, row: &str, text: &str) {
        block_on(async {
            let pool = Pool::connect(&self.road.url).await;
            pool.write_old(row, text).await;
            pool.close().await;
        });
    }
}

/// A thread that holds a lock which a commit has to wait for, until this is dropped.
struct Lock {
    release: Option<mpsc::Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl Lock {
    fn take(url: &str) -> Self {
        let (release, released) = mpsc::channel::<()>();
        let (taken, is_taken) = mpsc::channel();
        let url = url.to_owned();
        let hold = async move {
            match Pool::connect(&url).await {
                Pool::Postgres(pool) => {
                    let mut transaction = pool.begin().await.unwrap();
                    sqlx::query("SELECT 1 FROM org_instances FOR UPDATE")
                        .execute(&mut *transaction)
                        .await
                        .unwrap();
                    taken.send(()).unwrap();
                    released.recv().unwrap_err();
                    transaction.rollback().await.unwrap();
                }
                Pool::Sqlite(pool) => {
                    let transaction = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
                    taken.send(()).unwrap();
                    released.recv().unwrap_err();
                    transaction.rollback().await.unwrap();
                }
            }
        };
        let holder = thread::spawn(|| block_on(hold));
        is_taken.recv().unwrap();
        Self { release: Some(release), holder: Some(holder) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.release.take());
        self.holder.take().unwrap().join().unwrap();
    }
}

/// Runs `future` on a thread and runtime of its own: a hook is called in the middle of another.
fn block_on(future: impl Future<Output = ()> + Send) {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(future);
    };
    thread::scope(|scope| scope.spawn(run).join()).unwrap();
}
