//! Re-provisioning of every tenant.

mod cases;
mod check;
mod matrix;
mod names;
mod real;
mod store;
pub(crate) mod world;
