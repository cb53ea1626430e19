//! Fly's rate limits, for each action on each app or machine.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use axum::{extract::Request, http::Method};

use super::Fly;

/// A bucket for each method and path.
pub(super) struct Buckets {
    times: u32,
    empty_until: HashMap<String, Instant>,
}

impl Buckets {
    /// One call a second and three at once, or five and ten of those that look at a machine; so many times as fast. A
    /// little is forgiven for the way here.
    pub(super) fn is_too_fast(&mut self, request: &Request) -> bool {
        let path = request.uri().path();
        let is_look = request.method() == Method::GET
            && matches!(path.split('/').collect::<Vec<_>>()[..], ["", "apps", _, "machines", _]);
        let (each, burst) = match is_look {
            true => (Duration::from_millis(200), 10),
            false => (Duration::from_secs(1), 3),
        };
        let now = Instant::now();
        let key = format!("{} {path}", request.method());
        let until = self.empty_until.entry(key).or_insert(now);
        let next = (*until).max(now) + each / self.times;
        let is_too_fast = next > now + each * burst + Duration::from_millis(100);
        if !is_too_fast {
            *until = next;
        }
        is_too_fast
    }
}

impl Fly {
    /// Refuses what is faster than Fly's documented limits, or so many `times` these.
    pub(crate) fn limit_rate(&self, times: u32) {
        self.fleet().limits = Some(Buckets { times, empty_until: HashMap::new() });
    }
}
