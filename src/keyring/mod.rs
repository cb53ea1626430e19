//! The keys a value may be under, and the one it is to end under.

pub mod kms;
