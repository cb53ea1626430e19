//! Rotating the secrets that are not a table's: a recipe each, a journal, and one engine that runs them all.
pub mod recipe;
mod recipes;
mod secret;
pub mod state;

pub use secret::{SecretName, UnknownSecret};
