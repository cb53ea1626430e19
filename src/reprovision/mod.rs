//! Re-provisioning every tenant, the response to a compromise: fresh database credentials, a fresh machine, fresh URLs
//! under a new key, and nothing old alive at the end.
//!
//! - [`Course`]: the phases of a tenant, as data, by strategy and by what it has.
//! - [`Plan`]: the tenants, what each will feel, what stands in the way; writes nothing.
//! - [`Run`]: one saga beside the other. A phase is journaled before it is begun; each looks at what is there and does what
//!   is missing, by names that are given once, so that a process that died in it begins it again.
//! - [`orphans`](orphans::orphans): what was made for a tenant and is in nobody's use.
//! - [`finish`](finish::finish): the proof at the end, and its certificate.
//!
//! The old key is not needed: rows that nobody can open any more are the normal case.

mod asked;
mod config;
mod course;
mod error;
pub mod finish;
mod holder;
pub mod orphans;
mod phases;
mod plan;
mod run;
mod saga;
mod works;

pub use asked::{Asked, Order};
pub use course::{Course, Phase, Placement, Strategy};
pub use error::ReprovisionError;
pub use holder::until_let_go;
pub use plan::{Calls, Estimate, Obstacle, Plan, Planned};
pub use run::{Ending, Progress, Run, Stop, asked, open_run};
pub use saga::{Facts, name_of};
pub use works::{Manner, Variables, Works};
