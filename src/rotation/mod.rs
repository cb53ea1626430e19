//! Rotating the secrets that are not a table's: a recipe each, a journal, and one engine that runs them all.
//!
//! - [`SecretName::recipe`]: what is to be done, as data ([`recipe`]).
//! - [`state`]: where a rotation is, as a pure machine over its journal.
//! - [`Rotation`]: opens, resumes and advances one. Every intent is in the journal before anything is asked of a provider.
//! - [`Plan`]: what one would do, and the digest that an operator approves.
//! - [`Estate`]: what the operator runs, and so what a recipe's names stand for.
//! - [`Vault`](crate::journal::Vault): how values rest in the journal.

mod act;
mod adopt;
mod asked;
mod authority;
pub mod check;
mod checks;
mod engine;
mod error;
mod estate;
mod exercises;
mod in_place;
pub mod map;
mod mint;
mod operator;
mod outcome;
mod plan;
pub mod recipe;
mod recipes;
mod reprovision;
pub mod runbook;
mod secret;
mod standing;
pub mod state;
mod take_up;
mod tenants;
mod tools;
mod undo;
mod values;

pub use adopt::adopt;
pub use asked::{Added, Asked, shape, steps};
pub use engine::{Ending, Rotation};
pub use error::RotationError;
pub use estate::{Billing, Cache, Estate, FlyApp, Held, Mailer, NeonProject, Pair, Publisher, Table};
pub use operator::{Nobody, Operator};
pub use outcome::Wait;
pub use plan::Plan;
pub use secret::{SecretName, UnknownSecret};
pub use standing::{Standing, StandingState};
pub use take_up::open_rotation;
pub use tools::{Manner, Progress, Tools};
