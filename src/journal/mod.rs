//! What the journals of rotations and of re-provisioning have in common: how values rest in them ([`Vault`]), and the
//! boundaries between what is journaled and what is done ([`Hook`]).

mod hook;
mod vault;

pub use hook::{Hook, Moment};
pub use vault::{Owner, Vault, VaultError};
