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
    /// The machine and the branch that were made for this generation are gone, unless the row names them.
    pub(super) async fn undo(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        let row = self.works.row(saga.tenant()).await?;
        self.take_back(saga, row.as_ref()).await?;
        Ok(if row.is_none() { Turn::Gone } else { Turn::Done })
    }

    async fn take_back(&self, saga: &Saga, row: Option<&TenantRow>) -> Result<(), Trouble> {
        let facts = &saga.facts;
        let named = |of: fn(&TenantRow) -> &Option<String>| row.and_then(|row| of(row).as_deref());
        let in_use = named(|row| &row.machine);
        if facts.quiesced && in_use == Some(facts.machine.as_str()) {
            self.back_in_service(saga).await?;
        }
        // Undone is only what comes after its making: the ids are known.
        if let Some(machine) = facts.new_machine.as_deref().filter(|machine| in_use != Some(*machine)) {
            self.destroy(&facts.app, machine).await?;
        }
        let in_use = named(|row| &row.branch);
        if let Some(branch) = facts.new_branch.as_deref().filter(|branch| in_use != Some(*branch)) {
            let (neon, patience) = (&self.works.neon, self.works.manner.patience);
            match neon.delete_branch(&facts.project, branch, patience).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => return Err(error.into()),
                Err(error) => return Err(stuck(format!("its branch {branch} can't be deleted: {error}"))),
            }
        }
        Ok(())
    }
}
