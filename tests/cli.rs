//! The command, as an operator and as a script meet it: the real program on real databases.

mod audit;
mod fence;
mod keys;
mod kinds;
mod life;
pub(crate) mod operator;
mod refusals;
mod reprovision;
mod rotate;
mod settings;
mod stopping;
