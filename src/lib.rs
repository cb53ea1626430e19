//! Re-key encrypted database columns in place: online, resumable, provably complete.
//!
//! The binary `reseal` is a thin layer over this library. From the bottom up:
//!
//! - [`secret`]: the types that hold secrets; wiped on drop, never printed.
//! - [`envelope`]: the value formats v1, v2 and v3. Bytes in, bytes out (`docs/formats.md`).
//! - [`store`]: Postgres and SQLite, as far as a re-key needs them. It knows rows and bytes, and no key.
//! - [`providers`]: the vendors' APIs, for rotating the secrets that they mint; usable on its own.
//! - [`keyring`]: static keys, key management services, the registry of data keys; opening a value of unknown format,
//!   and sealing one with proof.
//! - [`audit`]: checks the hash-chained log of every change of state.
//! - [`rekey`]: a run over a whole table, its verification, and what `plan` counts (`docs/protocol.md`).
//! - [`rotation`]: the secrets that are not a table's: a recipe each, a journal, one engine, and what is printed of them
//!   (`docs/runbook.md`).
//! - [`time`]: times as they are shown and typed.
//!
//! A service that reads and writes single values needs [`envelope`] and [`keyring`] only. Sealing a tenant's URL so
//! that it opens in its own cell and nowhere else:
//!
//! ```
//! use reseal::{
//!     envelope::{Cell, v3::BoundKey},
//!     secret::{DataKey, Plaintext},
//! };
//!
//! // In a service the data key comes from the registry, unwrapped by the KMS: `keyring::unwrap`.
//! let key = BoundKey::new(&DataKey::generate()?);
//! let acme = Cell { table: "org_instances", column: "database_url_encrypted", row: "acme" };
//!
//! let mut value = Vec::new();
//! key.seal_into(&acme, b"postgres://acme@db/acme", &mut value);
//!
//! let mut url = Plaintext::new();
//! key.open_into(&acme, &value, &mut url)?;
//! assert_eq!(url.expose(), b"postgres://acme@db/acme");
//!
//! // Whoever writes the database can't hand one tenant's URL to another.
//! let globex = Cell { row: "globex", ..acme };
//! assert!(key.open_into(&globex, &value, &mut url).is_err());
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

pub mod audit;
pub mod envelope;
pub mod journal;
pub mod keyring;
pub mod providers;
pub mod rekey;
pub mod reprovision;
pub mod rotation;
pub mod secret;
pub mod store;
pub mod time;
