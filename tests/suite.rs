//! One test binary for the whole suite: a module a promise, linked once.

mod store_sqlite;
