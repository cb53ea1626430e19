//! Re-key encrypted database columns in place: online, resumable, provably complete.

pub mod envelope;
pub mod keyring;
pub mod rekey;
pub mod secret;
pub mod store;
