//! One test binary for the whole suite: a module a promise, linked once.

#![allow(
    clippy::unwrap_used,
    reason = "clippy's exemption for tests stops at the helpers of a #[test] function"
)]

mod chaos;
mod cli;
mod control;
mod drill;
mod fence;
mod finish;
mod formats;
mod key_text;
mod kms;
mod model;
mod plan;
mod providers;
mod rekey;
mod reprovision;
mod rotation;
mod rotation_map;
mod store_sqlite;
mod support;
mod support_works;
