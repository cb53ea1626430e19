//! What must hold of a world: at every instant of a run, and at its end.

use reseal::{
    audit,
    journal::Hook,
    reprovision::{Run, Strategy, Works, finish::finish, open_run},
    store::SagaState,
};

use super::world::{NEW_REDIS, Tenant, UNTOUCHED, World, plain, renewed};
use crate::support::tenants::TABLE;

impl World {
    /// At every boundary: who can't work is journaled to be down, and rows name what is there.
    pub(crate) async fn every_instant(&self, at: &str) {
        let sagas = self.sagas().await;
        for tenant in self.tenants.iter().take(sagas.len()) {
            let Some(held) = self.held(&tenant.org).await else { continue };
            let saga = sagas.iter().find(|saga| saga.tenant == tenant.org);
            let is_down = saga.is_some_and(|saga| saga.down_from_ms.is_some() && saga.down_to_ms.is_none());
            let serving = self.serving(tenant);
            assert!(is_down || !serving.is_empty(), "{at}: {} is down, and nobody knows", tenant.org);
            let machines = self.fly.machines(&tenant.app);
            let is_there = machines.iter().any(|machine| machine.id == held.machine);
            assert!(is_there, "{at}: the row of {} names a machine that is gone", tenant.org);
        }
    }

    /// At the end: every tenant is where its row says, nothing old is alive, and nothing is left over. Of tenants that
    /// the run was not for nothing was touched.
    pub(crate) async fn judge(&self, strategy: Strategy, of: &str) {
        let works = self.works(Hook::default()).await;
        let sagas = self.sagas().await;
        for tenant in &self.tenants {
            let Some(saga) = sagas.iter().find(|saga| saga.tenant == tenant.org) else {
                self.untouched(tenant, of).await;
                continue;
            };
            assert_eq!(saga.state, SagaState::Done, "{of}: {} {:?}", tenant.org, saga.why);
            let down = saga.down_from_ms.zip(saga.down_to_ms);
            assert!(down.is_some_and(|(from, to)| from <= to), "{of}: no downtime of {}", tenant.org);
            self.judge_one(&works, tenant, strategy, of).await;
        }
        self.nothing_is_left(&works, of).await;
        let row = open_run(self.journal.as_ref(), TABLE).await.unwrap().expect("an open run");
        let tell = |_: &_| ();
        let run = Run::resume(&works, &row, &tell).await.unwrap();
        let (found, certificate) = finish(&run).await.unwrap();
        assert!(found.is_clean(), "{of}: {found:?}");
        assert_eq!(found.done, u64::try_from(sagas.len()).unwrap(), "{of}: {found:?}");
        assert_eq!(found.table.is_some(), sagas.len() == self.tenants.len(), "{of}: {found:?}");
        assert!(found.refused >= found.done, "{of}: {found:?}");
        let certificate = certificate.expect("it is clean");
        assert!(certificate.contains("\"orphans\": 0"), "{certificate}");
        for secret in self.tenants.iter().map(|tenant| tenant.home.url.as_str()) {
            assert!(!certificate.contains(secret), "{certificate}");
        }
        let sealed = self.sagas().await.into_iter().filter(|saga| saga.sealed.is_some());
        assert_eq!(sealed.count(), 0, "{of}: URLs are left in the journal");
        let chain = audit::check(self.journal.as_ref(), None).await.unwrap();
        assert_eq!(chain.broken, None, "{of}");
    }

    async fn untouched(&self, tenant: &Tenant, of: &str) {
        let held = self.held(&tenant.org).await.expect("a row");
        assert_eq!(held.updated_at, UNTOUCHED, "{of}: the row of {}", tenant.org);
        assert_eq!(self.serving(tenant), [tenant.machine.as_str()], "{of}");
        assert_eq!(self.fly.config(&tenant.app, &tenant.machine), tenant.config, "{of}");
        assert!(self.neon.accepts(&tenant.home.url), "{of}: the URL of {} is dead", tenant.org);
    }

    async fn judge_one(&self, works: &Works, tenant: &Tenant, strategy: Strategy, of: &str) {
        let org = &tenant.org;
        let held = self.held(org).await.expect("a row");
        let [database, redis] = self.urls(works, org).await;
        let (database, redis) = (database.expect("it opens"), redis.expect("it opens"));
        assert!(self.neon.accepts(&database), "{of}: the new URL of {org} is refused");
        assert!(!self.neon.accepts(&tenant.home.url), "{of}: the old URL of {org} works");
        let path = tenant.redis.rsplit('/').next().unwrap();
        assert_eq!(redis, format!("{NEW_REDIS}/{path}"), "{of}");
        assert_eq!(self.serving(tenant), [held.machine.as_str()], "{of}: {org} is not where its row says");
        let config = self.fly.config(&tenant.app, &held.machine);
        assert_eq!(plain(config), renewed(tenant, &database, &redis), "{of}: the machine of {org}");
        assert_eq!(held.machine == tenant.machine, self.shape.volumes, "{of}");
        assert_eq!(held.branch == tenant.home.branch, strategy == Strategy::Reset, "{of}");
        assert_ne!(held.updated_at, UNTOUCHED, "{of}");
        let kept = self.neon.data(&held.branch);
        assert_eq!(kept.is_empty(), strategy == Strategy::Fresh, "{of}: the data of {org}");
        let machines = self.fly.machines(&tenant.app);
        let machine = machines.iter().find(|machine| machine.id == held.machine).expect("it serves");
        assert_eq!(machine.region, held.region, "{of}");
    }

    /// No machine and no branch that no row names, but for branches without a way in.
    pub(crate) async fn nothing_is_left(&self, works: &Works, of: &str) {
        let (mut machines, mut branches) = (Vec::new(), Vec::new());
        for tenant in &self.tenants {
            if let Some(held) = self.held(&tenant.org).await {
                machines.push(held.machine);
                branches.push(held.branch);
            }
        }
        let mut apps: Vec<_> = self.tenants.iter().map(|tenant| &tenant.app).collect();
        apps.dedup();
        for app in apps {
            for machine in self.fly.machines(app) {
                assert!(machines.contains(&machine.id), "{of}: {machine:?} is left over");
            }
        }
        let mut projects: Vec<_> = self.tenants.iter().map(|tenant| &tenant.home.project).collect();
        projects.dedup();
        for project in projects {
            for branch in works.neon.branches(project).await.unwrap() {
                let is_retired = || async {
                    let endpoints = works.neon.endpoints(project, &branch.id).await.unwrap();
                    endpoints.is_empty() && self.tenants.iter().any(|tenant| tenant.home.branch == branch.id)
                };
                let is_used = branch.default || branches.contains(&branch.id);
                assert!(is_used || is_retired().await, "{of}: {branch:?} is left over");
            }
        }
    }
}
