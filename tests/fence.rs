//! The fence: no write that is not under the new key goes by unseen, and nobody else's write is touched.

mod drift;
mod field;
mod locks;
mod rule;
mod runs;
mod sqlite;
mod writers;
