//! Re-provisioning of every tenant.

mod store;
