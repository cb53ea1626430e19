//! Client and stand-in, both held to Upstash's own specification, which has no errors and no password.

use reseal::providers::{
    Issuer, Recovered,
    upstash::{Database, Databases, Upstash},
};

use super::super::at_hand::{manner, secret};
use crate::support::{
    prism::Prism,
    vendors::upstash::{EMAIL, Upstash as StandIn},
};

#[tokio::test]
async fn every_call_and_reply_is_as_upstash_specifies() {
    let upstash = StandIn::start();
    let Some(prism) = Prism::before("upstash-developer-api.json", upstash.vendor.url()) else { return };
    let client = Upstash::new(prism.url(), EMAIL, secret(upstash.token()), manner()).unwrap();
    let (id, _) = upstash.live().remove(0);
    let old = secret(&upstash.connection_url(&id));

    let password = Database { upstash: client.clone(), id: id.clone() };
    let minted = password.mint("unused").await.unwrap();
    assert_eq!(minted.value.expose(), upstash.connection_url(&id));
    assert!(matches!(password.recover("unused", Some(&old)).await.unwrap(), Recovered::Value(_)));
    password.revoke(&minted.id).await.unwrap();

    let databases = Databases { upstash: client, like: id };
    let minted = databases.mint("reseal-1-new").await.unwrap();
    assert!(matches!(databases.recover("reseal-1-new", None).await.unwrap(), Recovered::Value(_)));
    assert_eq!(databases.list().await.unwrap().len(), 2);
    databases.revoke(&minted.id).await.unwrap();
    assert_eq!(prism.violations(), [""; 0]);
}
