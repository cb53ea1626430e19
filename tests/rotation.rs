//! Rotations, against stand-ins for every provider at once and a control plane that really uses what it is given.

mod matrix;
mod world;
