//! Re-provisioning every tenant.
