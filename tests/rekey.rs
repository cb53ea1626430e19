//! Every value ends under the new key, opens to what it always was, and the counters say so.

mod clock;
mod concurrency;
mod faults;
mod heap;
mod kill;
mod pooler;
mod quarantine;
mod rewrap;
mod rewrite;
mod shapes;
pub(crate) mod stage;
mod staged;
mod tables;
mod takeover;
mod triggers;
mod walk;
mod ways;
