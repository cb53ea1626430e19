//! Client and stand-in, both held to Neon's own specification.

use std::{collections::BTreeMap, time::Duration};

use reseal::providers::{
    Issuer, Probe, Recovered,
    neon::{ApiKeys, Fork, KeyProbe, Neon, RolePassword},
};

use super::{
    super::at_hand::{PATIENCE, assert_dead, assert_live, manner, secret},
    owner, url,
};
use crate::support::{
    prism::Prism,
    vendors::neon::{BRANCH, Neon as StandIn, PROJECT, ROLE},
};

#[tokio::test]
async fn every_call_and_reply_is_as_neon_specifies() {
    let neon = StandIn::start();
    let Some(prism) = Prism::before("neon-v2-2026-04.json", neon.vendor.url()) else { return };
    let client = Neon::new(prism.url(), secret(neon.token()), manner()).unwrap();

    for organization in [None, Some("org-cool-breeze-12345678".to_owned())] {
        let keys = ApiKeys::new(client.clone(), organization.clone());
        let probe = KeyProbe::new(client.clone(), organization);
        let key = keys.mint("reseal-1-key").await.unwrap();
        assert_live(&probe.probe(&key.value).await);
        let recovered = keys.recover("reseal-1-key", None).await.unwrap();
        assert!(matches!(&recovered, Recovered::Strays(strays) if strays.len() == 1), "{recovered:?}");
        for _ in 0..2 {
            keys.revoke(&key.id).await.unwrap();
        }
        assert_dead(&probe.probe(&key.value).await);
    }

    neon.set(|knobs| knobs.operation_time = Duration::from_millis(50));
    let old = secret(&url(&neon.password(ROLE)));
    let owner = RolePassword { neon: client.clone(), ..owner(&neon) };
    client.create_role(PROJECT, BRANCH, "cp_b", PATIENCE).await.unwrap();
    owner.mint("unused").await.unwrap();
    assert!(matches!(owner.recover("unused", Some(&old)).await.unwrap(), Recovered::Value(_)));
    assert_eq!(owner.list().await.unwrap().len(), 2);
    neon.set(|knobs| knobs.stores_passwords = false);
    assert!(!client.stores_passwords(PROJECT).await.unwrap());
    owner.mint("unused").await.unwrap();
    owner.revoke("role:cp_b").await.unwrap();

    neon.set(|knobs| knobs.page = 1);
    let main = client.default_branch(PROJECT).await.unwrap();
    let annotations = BTreeMap::from([("reseal_run".to_owned(), "1".to_owned())]);
    let wanted = Fork { name: "t-1-g2", parent: None, annotations };
    for _ in 0..2 {
        let branch = client.fork(PROJECT, &wanted, PATIENCE).await.unwrap();
        assert_eq!(branch.parent_id.as_deref(), Some(&*main.id));
    }
    let [_, branch] = &client.branches(PROJECT).await.unwrap()[..] else { panic!("two branches") };
    assert_eq!(client.branch(PROJECT, &branch.id).await.unwrap(), *branch);
    assert_eq!(client.databases(PROJECT, &branch.id).await.unwrap()[0].owner_name, ROLE);
    client.may_change(PROJECT, &branch.id).await.unwrap();
    assert!(client.may_change(PROJECT, "br-none").await.unwrap_err().is_missing());
    assert!(client.delete_branch(PROJECT, &main.id, PATIENCE).await.is_err());
    let [endpoint] = &client.endpoints(PROJECT, &branch.id).await.unwrap()[..] else { panic!("an endpoint") };
    for _ in 0..2 {
        client.delete_endpoint(PROJECT, &endpoint.id, PATIENCE).await.unwrap();
    }
    for _ in 0..2 {
        client.delete_branch(PROJECT, &branch.id, PATIENCE).await.unwrap();
    }
    assert_eq!(prism.violations(), [""; 0]);
}
