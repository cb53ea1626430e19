//! A run at work: the road from its first precondition to its last sweep, and all that moves on it.
//!
//! - [`run()`]: opens a run or joins one, and takes it sweep by sweep to its end; `crew` keeps its workers in number.
//! - `sweeps`: a worker takes shard after shard; `split`: a sweep into shards.
//! - `supply` claims, reads and re-seals ahead of what `pipeline` commits; `resealer`: from a page as read to a page as it
//!   should be; `worker`: who claims.
//! - `workshop`: what the workers of a process share; `retry`: patience with a database in trouble.
//! - `attend`: makes `directions` of what was ordered and of what the database can bear (`throttle`).
//! - [`Status`], [`Waiting`], [`Metrics`], [`Stop`]: what is seen of a run from outside, and how it is stopped.
//! - [`Step`]: the boundaries at which it may die, by name; [`Hook`]: called at each.
//!
//! It chooses no keys and proves no end: a job comes with its keys, and [`verify`](super::verify()) reads for itself.

mod attend;
mod crew;
mod directions;
mod metrics;
mod pipeline;
mod progress;
mod resealer;
mod retry;
mod run;
mod split;
mod steps;
mod supply;
mod sweeps;
mod throttle;
mod waiting;
mod worker;
mod workshop;

pub use metrics::Metrics;
pub use progress::{Status, Stop, StopSignal, stop_signal};
pub(super) use resealer::{Pass, Resealer, count};
pub(super) use retry::patiently;
pub(super) use run::require_right_keys;
pub use run::run;
pub use steps::{Hook, Moment, Step};
pub use waiting::Waiting;
