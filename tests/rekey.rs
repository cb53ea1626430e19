//! Every value ends under the new key, opens to what it always was, and the counters say so.

mod concurrency;
mod faults;
mod stage;
mod ways;
