//! What the journals of rotations and of re-provisioning have in common: how values rest in them ([`Vault`]), the
//! boundaries between what is journaled and what is done ([`Hook`]), and what an operator approves ([`PlanDigest`]),
//! and who works on one.

mod digest;
mod hook;
mod lease;
mod vault;

pub use digest::PlanDigest;
pub use hook::{Hook, Moment};
pub(crate) use lease::{holder, while_held};
pub use vault::{Owner, Vault, VaultError};
