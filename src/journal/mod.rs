//! What the journals of rotations and of re-provisioning have in common: how values rest in them ([`Vault`]), the
//! boundaries between what is journaled and what is done ([`Hook`]), and what an operator approves ([`PlanDigest`]).

mod digest;
mod hook;
mod vault;

pub use digest::PlanDigest;
pub use hook::{Hook, Moment};
pub use vault::{Owner, Vault, VaultError};
