//! Re-provisioning of every tenant.

mod check;
mod matrix;
mod store;
mod world;
