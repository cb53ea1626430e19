//! Rotations, against stand-ins for every provider at once and a control plane that really uses what it is given.

mod check;
mod in_place;
mod matrix;
mod rules;
mod table;
mod way_back;
pub(crate) mod world;
