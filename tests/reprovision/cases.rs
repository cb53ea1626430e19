//! What can come in a tenant's way, one thing at a time.

mod databases;
mod machines;
mod plans;
mod rows;
mod runs;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use reseal::{
    journal::{Hook, Moment},
    reprovision::{Ending, Plan, Strategy},
    store::SagaState,
};

use super::world::{Shape, World, asked};

/// The first tenant, and the second.
const FIRST: &str = "org-000";
const SECOND: &str = "org-001";

/// The first tenant's machine, and what is made for it.
const MACHINE: &str = "machine000";
const MADE: &str = "t-org-000-g1";

async fn world() -> Arc<World> {
    Arc::new(World::start(Shape::default()).await)
}

/// Does something the first time that a tenant comes there.
fn once<F: Future<Output = ()> + Send + 'static>(
    phase: &'static str,
    moment: Moment,
    act: impl Fn() -> F + Send + Sync + 'static,
) -> Hook {
    let done = AtomicBool::new(false);
    Hook::new(move |at, now| {
        let hits = (at, now) == (phase, moment) && !done.swap(true, Ordering::Relaxed);
        let act = hits.then(&act);
        async move {
            if let Some(act) = act {
                act.await;
            }
        }
    })
}

impl World {
    /// A run without anything in its way, or what is left of one.
    async fn goes_through(&self, strategy: Strategy) {
        let ending = self.drive(Hook::default(), &asked(strategy, false)).await.unwrap();
        assert_eq!(ending, Ending::Complete, "{:?}", self.whys().await);
        self.judge(strategy, "in the end").await;
    }

    /// Why tenants are parked.
    async fn whys(&self) -> Vec<String> {
        let sagas = self.sagas().await.into_iter();
        sagas.filter_map(|saga| Some(format!("{} in {}: {}", saga.tenant, saga.phase, saga.why?))).collect()
    }

    /// Only the first tenant is parked, for this reason, and serves with this machine.
    async fn first_is_parked(&self, ending: Ending, why: &str, machine: &str) {
        assert_eq!(ending, Ending::Parked(1));
        let first = self.saga(FIRST).await;
        assert_eq!(first.state, SagaState::Parked);
        assert!(first.why.as_deref().is_some_and(|said| said.contains(why)), "{:?}", first.why);
        assert_eq!(self.saga(SECOND).await.state, SagaState::Done);
        assert_eq!(self.serving(&self.tenants[0]), [machine]);
        assert_eq!(self.held(FIRST).await.unwrap().machine, machine);
    }

    /// What a plan says is in the way, and what is to be known.
    async fn planned(&self, strategy: Strategy) -> Plan {
        let works = self.works(Hook::default()).await;
        Plan::of(&works, asked(strategy, false)).await.unwrap()
    }
}
