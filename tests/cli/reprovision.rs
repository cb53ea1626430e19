//! `reprovision`, as an operator meets it: the real program, a table and a journal in SQLite files, and vendors that remember.

mod desk;
mod recorded;
mod refusals;
mod rotate;
mod stopping;
mod whole;
