//! What the vendors' APIs do for a rotation, as a library of its own: it knows nothing of a database, a journal or a
//! command line.
//!
//! - [`http`]: one thin client: base URL, authentication, time-outs, rate limits, retries only where one is safe.
//! - [`ProviderError`]: sorted by whose move is next; what nobody can know is a kind of its own.
//! - [`Issuer`], [`Location`], [`Probe`]: the roles that a rotation is made of. Each vendor's module gives some of
//!   them.
//!
//! Every base URL can be set, for proxies, for an API inside a private network, and for tests.

pub mod control_plane;
mod error;
pub mod fly;
pub mod github;
pub mod http;
pub mod login;
mod mailbox;
pub mod neon;
mod pace;
mod password;
mod patience;
pub mod resend;
mod roles;
pub mod stripe;
pub mod upstash;

pub use error::{Outcome, ProviderError};
pub use mailbox::{Mailbox, NotAMailbox};
pub use patience::{Patience, Wait};
pub use roles::{Issued, Issuer, Life, Location, Minted, Observed, Probe, Recovered};
