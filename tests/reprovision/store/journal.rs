//! The journal of a re-provisioning: one writer, one open run a target, and everything in the audit log.

use reseal::{
    audit,
    store::{AuditRecord, NewReprovision, NewSaga, ReprovisionLease, SagaCount, SagaRow, SagaState},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;

impl Ground {
    async fn open(&self, run_id: &str, tenants: &[&str]) -> Option<ReprovisionLease> {
        self.open_for("t", run_id, tenants).await.unwrap()
    }

    async fn open_for(
        &self,
        target: &str,
        run_id: &str,
        tenants: &[&str],
    ) -> Result<Option<ReprovisionLease>, StoreError> {
        let options = json!({"strategy": "reset"});
        let run = NewReprovision { run_id, target, options: &options, plan: "digest", holder: "one" };
        let saga = |(position, tenant): (i64, &&str)| NewSaga { tenant: (*tenant).to_owned(), position };
        let sagas: Vec<NewSaga> = (1..).zip(tenants).map(saga).collect();
        self.store.open_reprovision(&run, &sagas).await
    }

    async fn saga(&self, run_id: &str, tenant: &str) -> SagaRow {
        self.store.saga(run_id, tenant).await.unwrap().unwrap()
    }

    /// What the audit log has of one subject.
    async fn said_of(&self, subject: &str) -> Vec<(String, Value)> {
        let records: Vec<AuditRecord> = self.store.audit_page(0, 10_000).await.unwrap();
        let of = records.into_iter().filter(|record| record.subject == subject);
        of.map(|record| (record.action, serde_json::from_str(&record.detail).unwrap())).collect()
    }

    async fn chain_holds(&self) {
        assert_eq!(audit::check(self.store.as_ref(), None).await.unwrap().broken, None);
    }

    async fn expire(&self) {
        self.execute("UPDATE reseal_reprovisions SET lease_until = begun_at").await;
    }
}

fn count(phase: &str, state: SagaState, tenants: i64) -> SagaCount {
    SagaCount { phase: phase.to_owned(), state, tenants }
}

#[tokio::test]
async fn a_run_opens_with_all_its_tenants_and_is_the_only_open_one_of_its_target() {
    for ground in Ground::both().await {
        let lease = ground.open("run-1", &["b", "a", "c"]).await.unwrap();
        assert_eq!(lease, ReprovisionLease { run_id: "run-1".to_owned(), fence: 1 });
        let before = ground.store.audit_head().await.unwrap();
        assert_eq!(ground.open("run-2", &["a"]).await, None);
        assert_eq!(ground.store.sagas("run-2", &[], 0, 10).await.unwrap(), []);
        assert_eq!(ground.store.audit_head().await.unwrap(), before, "and nothing was said");

        let waiting = SagaRow {
            run_id: "run-1".to_owned(),
            tenant: "b".to_owned(),
            position: 1,
            generation: 1,
            phase: String::new(),
            state: SagaState::Waiting,
            why: None,
            detail: "{}".to_owned(),
            sealed: None,
            down_from_ms: None,
            down_to_ms: None,
            begun_ms: None,
            ended_ms: None,
        };
        let sagas = ground.store.sagas("run-1", &[], 0, 10).await.unwrap();
        assert_eq!(sagas[0], waiting);
        let order: Vec<&str> = sagas.iter().map(|saga| saga.tenant.as_str()).collect();
        assert_eq!(order, ["b", "a", "c"]);
        assert_eq!(ground.store.saga("run-1", "nobody").await.unwrap(), None);

        let runs = ground.store.reprovisions(Some("t")).await.unwrap();
        let [run] = runs.as_slice() else { panic!("{runs:?}") };
        assert_eq!((run.run_id.as_str(), run.plan.as_str()), ("run-1", "digest"));
        assert_eq!((run.holder.as_deref(), run.held), (Some("one"), true));
        assert_eq!((run.options.as_str(), run.ended_ms), ("{\"strategy\":\"reset\"}", None));
        assert!((ground.store.now_ms().await.unwrap() - run.begun_ms).abs() < 60_000);
        assert_eq!(ground.store.reprovisions(Some("other")).await.unwrap(), []);

        let detail = json!({
            "target": "t", "options": {"strategy": "reset"}, "plan": "digest", "tenants": 3,
        });
        assert_eq!(ground.said_of("run-1").await, [("reprovision-opened".to_owned(), detail)]);

        // Another target has its own.
        assert!(ground.open_for("other", "run-3", &["a"]).await.unwrap().is_some());
        let newest_first: Vec<String> =
            ground.store.reprovisions(None).await.unwrap().into_iter().map(|run| run.run_id).collect();
        assert_eq!(newest_first, ["run-3", "run-1"]);
        ground.chain_holds().await;
    }
}

#[tokio::test]
async fn a_run_with_a_tenant_twice_does_not_open() {
    for ground in Ground::both().await {
        let error = ground.open_for("t", "run", &["a", "b", "a"]).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        assert_eq!(ground.store.reprovisions(None).await.unwrap(), []);
        assert_eq!(ground.store.sagas("run", &[], 0, 10).await.unwrap(), []);
        assert_eq!(ground.store.audit_head().await.unwrap(), None);
    }
}

#[tokio::test]
async fn thousands_of_tenants_are_opened_and_paged() {
    for ground in Ground::both().await {
        let names: Vec<String> = (0..2501).map(|tenant| format!("tenant-{tenant}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        ground.open("run", &names).await.unwrap();
        assert_eq!(ground.store.saga_counts("run").await.unwrap(), [count("", SagaState::Waiting, 2501)]);
        let (mut seen, mut after) = (Vec::new(), 0);
        loop {
            let page = ground.store.sagas("run", &[], after, 1000).await.unwrap();
            let Some(last) = page.last() else { break };
            after = last.position;
            seen.extend(page.into_iter().map(|saga| saga.tenant));
        }
        assert_eq!(seen, names);
    }
}

#[tokio::test]
async fn what_is_recorded_of_a_tenant_is_read_back_and_audited() {
    for ground in Ground::both().await {
        let lease = ground.open("run", &["a", "b", "c"]).await.unwrap();
        let mut saga = ground.saga("run", "a").await;
        let head = ground.store.audit_head().await.unwrap().unwrap().seq;
        let mut begun = None;
        for (phase, state, why, action) in [
            ("look", SagaState::Running, None, "tenant-look"),
            ("create", SagaState::Running, None, "tenant-create"),
            ("create", SagaState::Parked, Some("no capacity"), "tenant-parked"),
            ("create", SagaState::Waiting, None, "tenant-waiting"),
            ("death", SagaState::Done, None, "tenant-done"),
            ("death", SagaState::Gone, None, "tenant-gone"),
            ("look", SagaState::Running, None, "tenant-look"),
        ] {
            saga.generation += 1;
            (saga.phase, saga.state, saga.why) = (phase.to_owned(), state, why.map(str::to_owned));
            saga.detail = json!({"machine": phase}).to_string();
            saga.sealed = Some(format!("sealed in {phase}").into_bytes());
            (saga.down_from_ms, saga.down_to_ms) = (Some(saga.generation), Some(1 << 41));
            assert!(ground.store.record_saga(&lease, &saga).await.unwrap());
            let mut found = ground.saga("run", "a").await;
            assert_eq!(found.ended_ms.is_some(), matches!(state, SagaState::Done | SagaState::Gone));
            assert!(found.begun_ms.is_some() && (begun.is_none() || found.begun_ms == begun));
            begun = found.begun_ms;
            (found.begun_ms, found.ended_ms) = (None, None);
            assert_eq!(found, saga);
            let mut detail = json!({"run": "run", "generation": saga.generation, "phase": phase});
            if let Some(why) = why {
                detail["why"] = why.into();
            }
            assert_eq!(ground.said_of("a").await.pop().unwrap(), (action.to_owned(), detail));
        }
        assert_eq!(ground.store.audit_head().await.unwrap().unwrap().seq, head + 7, "one record each");
        assert_eq!(ground.saga("run", "b").await.state, SagaState::Waiting);

        let stranger = SagaRow { tenant: "stranger".to_owned(), ..saga.clone() };
        let error = ground.store.record_saga(&lease, &stranger).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no tenant stranger in run run");
        let elsewhere = SagaRow { run_id: "other".to_owned(), position: 99, ..saga };
        assert!(ground.store.record_saga(&lease, &elsewhere).await.unwrap());
        assert_eq!(ground.saga("run", "a").await.position, 1, "its place is not a matter of its phase");
        ground.chain_holds().await;
    }
}

#[tokio::test]
async fn tenants_are_listed_and_counted_by_state() {
    for ground in Ground::both().await {
        let lease = ground.open("run", &["a", "b", "c", "d", "e"]).await.unwrap();
        for (tenant, phase, state) in [
            ("e", "reset", SagaState::Running),
            ("a", "launch", SagaState::Parked),
            ("c", "reset", SagaState::Running),
            ("d", "death", SagaState::Done),
        ] {
            let saga = SagaRow { phase: phase.to_owned(), state, ..ground.saga("run", tenant).await };
            assert!(ground.store.record_saga(&lease, &saga).await.unwrap());
        }
        let listed = async |states: &[SagaState], after, limit| {
            let sagas = ground.store.sagas("run", states, after, limit).await.unwrap();
            sagas.into_iter().map(|saga| saga.tenant).collect::<String>()
        };
        assert_eq!(listed(&[], 0, 10).await, "abcde");
        assert_eq!(listed(&[], 1, 3).await, "bcd");
        assert_eq!(listed(&[SagaState::Running], 0, 10).await, "ce");
        assert_eq!(listed(&[SagaState::Running], 3, 10).await, "e");
        assert_eq!(listed(&[SagaState::Waiting, SagaState::Parked], 0, 10).await, "ab");
        assert_eq!(listed(&[SagaState::Gone], 0, 10).await, "");
        let counts = [
            count("", SagaState::Waiting, 1),
            count("death", SagaState::Done, 1),
            count("launch", SagaState::Parked, 1),
            count("reset", SagaState::Running, 2),
        ];
        assert_eq!(ground.store.saga_counts("run").await.unwrap(), counts);
        assert_eq!(ground.store.saga_counts("other").await.unwrap(), []);
    }
}

#[tokio::test]
async fn who_lost_the_lease_writes_nothing() {
    for ground in Ground::both().await {
        let first = ground.open("run", &["a"]).await.unwrap();
        assert_eq!(ground.store.claim_reprovision("run", "two").await.unwrap(), None, "it is held");
        ground.expire().await;
        assert!(!ground.store.reprovisions(None).await.unwrap()[0].held);
        assert!(ground.store.renew_reprovision(&first).await.unwrap(), "nobody else came");
        assert_eq!(ground.store.claim_reprovision("run", "two").await.unwrap(), None, "it is held again");
        ground.expire().await;
        let second = ground.store.claim_reprovision("run", "two").await.unwrap().unwrap();
        assert_eq!(second.fence, 2);

        let before = ground.saga("run", "a").await;
        let head = ground.store.audit_head().await.unwrap();
        let run = ground.store.reprovisions(None).await.unwrap();
        let saga = SagaRow { phase: "look".to_owned(), state: SagaState::Running, ..before.clone() };
        assert!(!ground.store.record_saga(&first, &saga).await.unwrap());
        assert!(!ground.store.renew_reprovision(&first).await.unwrap());
        assert!(!ground.store.end_reprovision(&first, "{}").await.unwrap());
        ground.store.release_reprovision(&first).await.unwrap();
        assert_eq!(ground.saga("run", "a").await, before);
        assert_eq!(ground.store.audit_head().await.unwrap(), head);
        assert_eq!(ground.store.reprovisions(None).await.unwrap(), run);

        // A record holds the lease as a renewal does.
        ground.expire().await;
        assert!(ground.store.record_saga(&second, &saga).await.unwrap());
        assert_eq!(ground.store.claim_reprovision("run", "three").await.unwrap(), None);
        ground.store.release_reprovision(&second).await.unwrap();
        assert!(!ground.store.record_saga(&second, &saga).await.unwrap(), "it gave the lease back");
        let third = ground.store.claim_reprovision("run", "three").await.unwrap().unwrap();
        assert_eq!(third.fence, 3);
        assert_eq!(ground.store.claim_reprovision("unknown", "three").await.unwrap(), None);
        ground.chain_holds().await;
    }
}

#[tokio::test]
async fn the_end_keeps_the_certificate_and_wipes_every_sealed_value() {
    for ground in Ground::both().await {
        let lease = ground.open("run-1", &["a", "b", "c"]).await.unwrap();
        for (tenant, generation, sealed) in
            [("a", 3, Some(vec![7; 40])), ("b", 1, Some(vec![8; 40])), ("c", 1, None)]
        {
            let saga = SagaRow {
                phase: "death".to_owned(),
                state: SagaState::Done,
                generation,
                sealed,
                ..ground.saga("run-1", tenant).await
            };
            assert!(ground.store.record_saga(&lease, &saga).await.unwrap());
        }
        let before = ground.store.sagas("run-1", &[], 0, 10).await.unwrap();
        let certificate = "{\"tenants\":3}";
        assert!(ground.store.end_reprovision(&lease, certificate).await.unwrap());
        let wiped: Vec<SagaRow> = before.into_iter().map(|saga| SagaRow { sealed: None, ..saga }).collect();
        assert_eq!(ground.store.sagas("run-1", &[], 0, 10).await.unwrap(), wiped);
        let run = ground.store.reprovisions(Some("t")).await.unwrap().remove(0);
        assert_eq!(run.certificate.as_deref(), Some(certificate));
        assert!(run.ended_ms.is_some_and(|ended| ended >= run.begun_ms));
        assert_eq!((run.holder, run.held), (None, false));
        let detail = json!({"target": "t", "certificate": hex::encode(Sha256::digest(certificate))});
        assert_eq!(ground.said_of("run-1").await.pop().unwrap(), ("reprovision-ended".to_owned(), detail));

        assert!(!ground.store.end_reprovision(&lease, "{}").await.unwrap(), "once");
        assert!(!ground.store.record_saga(&lease, &wiped[0]).await.unwrap());
        assert!(!ground.store.renew_reprovision(&lease).await.unwrap());
        assert_eq!(ground.store.claim_reprovision("run-1", "two").await.unwrap(), None);

        // What the next run makes must not have the names of what this one left in service.
        ground.open("run-2", &["a", "b", "new"]).await.unwrap();
        let sagas = ground.store.sagas("run-2", &[], 0, 10).await.unwrap();
        let generations: Vec<i64> = sagas.iter().map(|saga| saga.generation).collect();
        assert_eq!(generations, [4, 2, 1]);
        ground.open_for("other", "run-3", &["a"]).await.unwrap().unwrap();
        assert_eq!(ground.saga("run-3", "a").await.generation, 1, "another target's tenant");
        ground.chain_holds().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tenants_record_at_once() {
    let [ground, _] = Ground::both().await;
    let names: Vec<String> = (0..64).map(|tenant| format!("tenant-{tenant}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let lease = ground.open("run", &names).await.unwrap();
    let sagas = ground.store.sagas("run", &[], 0, 100).await.unwrap();
    let recorded = sagas.into_iter().map(|saga| {
        let (store, lease) = (ground.store.clone(), lease.clone());
        tokio::spawn(async move {
            for phase in ["look", "create", "reset"] {
                let saga = SagaRow { phase: phase.to_owned(), state: SagaState::Running, ..saga.clone() };
                assert!(store.record_saga(&lease, &saga).await.unwrap());
            }
        })
    });
    for task in recorded.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(ground.store.saga_counts("run").await.unwrap(), [count("reset", SagaState::Running, 64)]);
    ground.chain_holds().await;
}
