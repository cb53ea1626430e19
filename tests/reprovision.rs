//! Re-provisioning of every tenant.

mod cases;
mod check;
mod matrix;
mod store;
pub(crate) mod world;
