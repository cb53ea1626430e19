//! The keys a value may be under, and the one it is to end under.
//!
//! [`Opener`] opens a value of unknown format with every key it was given; [`Sealer`] seals values under one. Both are
//! bound to one target, whose name and columns are part of every v3 value's key.

pub mod kms;
mod open;
pub mod private_file;
mod registry;
mod seal;
pub mod spec;
pub mod static_key;

pub use open::{Attempt, ClearText, Opener, Origin, OriginKey, Reason, Unwrapped, looks_like_url};
pub use registry::{RegistryError, generate, material, rewrap, unwrap};
pub use seal::{ProofFailed, RowKeys, Sealer};
