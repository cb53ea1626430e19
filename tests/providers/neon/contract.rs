//! Client and stand-in, both held to Neon's own specification.

use std::time::Duration;

use reqwest::Method;
use reseal::providers::{
    Issuer, Probe, Recovered,
    neon::{ApiKeys, KeyProbe, Neon, RolePassword},
};
use serde_json::json;

use super::{
    super::at_hand::{PATIENCE, assert_dead, assert_live, manner, secret},
    ask, owner, url,
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

    neon.set(|knobs| knobs.operation_time = Duration::ZERO);
    let branch = client.default_branch(PROJECT).await.unwrap();
    let wanted = json!({ "branch": { "name": "tenant-1", "parent_id": branch.id }, "endpoints": [{ "type": "read_write" }] });
    let (status, made) = ask(&neon, prism.url(), Method::POST, "branches", Some(&wanted)).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("branches/{}", made["branch"]["id"].as_str().unwrap());
    assert_eq!(ask(&neon, prism.url(), Method::POST, "branches", Some(&wanted)).await.0, 409);
    assert_eq!(ask(&neon, prism.url(), Method::GET, &path, None).await.0, 200);
    assert_eq!(ask(&neon, prism.url(), Method::DELETE, &path, None).await.0, 200);
    assert_eq!(ask(&neon, prism.url(), Method::DELETE, &path, None).await.0, 204);
    assert_eq!(prism.violations(), [""; 0]);
}
