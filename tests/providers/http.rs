//! What the one client does for every vendor.

use std::{
    num::NonZero,
    time::{Duration, Instant},
};

use axum::{Router, http::StatusCode};
use reseal::providers::{
    ProviderError,
    http::{Auth, Client, Manner, Rules},
};

use crate::support::vendors::Vendor;

const RULES: Rules = Rules { provider: "x", not_begun: &[], refusals: &[], codes: &[], paces: &[] };

const HASTE: Manner = Manner {
    timeout: Duration::from_secs(5),
    tries: 2,
    pause: Duration::from_millis(1),
    paced: false,
    times: NonZero::<u32>::MIN,
};

/// What a server's error asks for is waited for as what a rate limit asks for, where the call is repeated at all.
#[tokio::test]
async fn a_server_that_is_out_of_order_is_left_alone_for_as_long_as_it_asks() {
    for status in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS] {
        let vendor = Vendor::serve(Router::new().fallback(async move || (status, [("retry-after", "1")])));
        let client = Client::new(RULES, vendor.url(), Auth::None, HASTE).unwrap();
        let begun = Instant::now();
        let error = client.get("look", &["a"]).send().await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert!(begun.elapsed() >= Duration::from_secs(1), "{status}");
        assert_eq!(vendor.count("GET", "/a"), 2);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let error = client.post("act", &["b"]).send().await.unwrap_err();
            assert!(matches!(error, ProviderError::Uncertain { .. }), "{error}");
            assert_eq!(vendor.count("POST", "/b"), 1);
        }
    }
}
