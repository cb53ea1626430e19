//! Re-provisioning of every tenant.

mod check;
mod matrix;
mod store;
pub(crate) mod world;
