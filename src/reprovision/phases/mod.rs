//! What is done in each phase. Every one looks first at what is there, and may be begun again at any time.

mod database;
mod look;
mod machine;
mod row;
mod undo;

pub(super) use look::Whereabouts;
pub(super) use row::{CHANGED, Standing};

use super::{Phase, Run, error::Trouble, saga::Saga};

/// How a phase ended.
#[derive(Debug)]
pub(super) enum Turn {
    /// What it is for is so.
    Done,
    /// The row is another than was looked at: what was made is undone, and the tenant is looked at anew.
    Replan(&'static str),
    /// The tenant is no more.
    Gone,
}

impl Run<'_> {
    /// Takes a tenant through the phase that it is in.
    pub(super) async fn take(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        match saga.phase {
            Phase::Look => self.look(saga).await,
            Phase::Create => self.create(saga).await,
            Phase::Quiesce => self.quiesce(saga).await,
            Phase::Fork => self.fork(saga).await,
            Phase::Reset => self.reset(saga).await,
            Phase::Launch => self.launch(saga).await,
            Phase::Row => self.row(saga).await,
            Phase::Traffic => self.traffic(saga).await,
            Phase::Retire => self.retire(saga).await,
            Phase::Death => self.death(saga).await,
            Phase::Undo => self.undo(saga).await,
        }
    }
}
