//! A vendor's rate limits, held before a request is sent.

use std::{collections::HashMap, num::NonZero};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// A rate limit: at most `per_second` calls a second, and `burst` at once, for each key that a call names.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// What a call asks for with [`Call::paced`](super::http::Call::paced).
    pub class: &'static str,
    /// Calls a second.
    pub per_second: NonZero<u32>,
    /// Calls at once.
    pub burst: NonZero<u32>,
}

/// What is left of each limit.
pub(super) struct Limits(HashMap<&'static str, DefaultKeyedRateLimiter<String>>);

impl Limits {
    /// The limits of `paces`, each so many `times`.
    pub(super) fn new(paces: &[Pace], times: NonZero<u32>) -> Self {
        let limiter = |pace: &Pace| {
            let quota = Quota::per_second(pace.per_second.saturating_mul(times));
            (pace.class, RateLimiter::keyed(quota.allow_burst(pace.burst.saturating_mul(times))))
        };
        Self(paces.iter().map(limiter).collect())
    }

    /// Waits for a turn among the calls of a class that have the same key.
    pub(super) async fn turn(&self, class: &str, key: &String) {
        if let Some(limit) = self.0.get(class) {
            limit.until_key_ready(key).await;
        }
    }
}
