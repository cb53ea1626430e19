//! What was made for a tenant is taken away again: nothing of ours is left behind.

use super::Turn;
use crate::{
    reprovision::{
        Run,
        error::{Trouble, stuck},
        saga::Saga,
    },
    store::TenantRow,
};

impl Run<'_> {
    /// The machine and the branch that were made for this generation are gone, unless the row names them. Where the tenant
    /// still is on its old machine, that is in service again before.
    pub(super) async fn undo(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        let row = self.works.row(saga.tenant()).await?;
        let named = |of: fn(&TenantRow) -> &Option<String>| row.as_ref().and_then(|row| of(row).as_deref());
        let machine_in_use = named(|row| &row.machine);
        let branch_in_use = named(|row| &row.branch);
        let is_down = saga.facts.quiesced && !saga.facts.course.hard;
        if is_down && machine_in_use == Some(saga.facts.machine.as_str()) {
            self.back_in_service(saga).await?;
        }
        let facts = &saga.facts;
        // Undone is only what comes after its making: the ids are known.
        if let Some(machine) = facts.new_machine.as_deref().filter(|one| machine_in_use != Some(*one)) {
            self.destroy(&facts.app, machine).await?;
        }
        if let Some(branch) = facts.new_branch.as_deref().filter(|one| branch_in_use != Some(*one)) {
            self.delete_branch(saga, branch).await?;
        }
        if row.is_some() {
            return Ok(Turn::Done);
        }
        if facts.moved {
            self.leave(saga).await?;
        }
        Ok(Turn::Gone)
    }

    async fn delete_branch(&self, saga: &Saga, branch: &str) -> Result<(), Trouble> {
        let patience = self.works.manner.patience;
        match self.works.neon.delete_branch(&saga.facts.project, branch, patience).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_transient() => Err(error.into()),
            Err(error) => Err(stuck(format!("its branch {branch} can't be deleted: {error}"))),
        }
    }

    /// What a tenant had before its row was changed by us is no more than what it had last: whoever deleted it has not
    /// seen it.
    async fn leave(&self, saga: &mut Saga) -> Result<(), Trouble> {
        if !Self::is_in_place(saga) {
            self.destroy(&saga.facts.app, &saga.facts.machine).await?;
        }
        if saga.facts.course.strategy.forks() {
            self.retire(saga).await?;
        }
        Ok(())
    }
}
