//! The keys a value may be under, and the one it is to end under.

pub mod kms;
pub mod private_file;
pub mod spec;
pub mod static_key;
