//! `rotate`, as an operator meets it: the real program, a journal in a SQLite file, and vendors that remember.

mod adopt;
mod asked;
pub(crate) mod desk;
mod interrupted;
mod recorded;
pub(crate) mod terminal;
mod vendors;
mod whole;
