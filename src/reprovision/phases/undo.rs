//! What was made for a tenant is taken away again: nothing of ours is left behind.

use tokio::time::sleep;

use super::Turn;
use crate::{
    providers::{fly::Machine, neon::Branch},
    reprovision::{
        Run,
        error::{Trouble, stuck},
        saga::{RUN, Saga},
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
        if let Some(machine) = self.made_machine(saga).await?.filter(|one| machine_in_use != Some(one)) {
            self.destroy(&facts.app, &machine).await?;
        }
        if let Some(branch) = self.made_branch(saga).await?.filter(|one| branch_in_use != Some(one)) {
            self.delete_branch(saga, &branch).await?;
        }
        if row.is_some() {
            return Ok(Turn::Done);
        }
        if facts.moved {
            self.leave(saga).await?;
        }
        Ok(Turn::Gone)
    }

    /// The machine that was made for this generation. That its making failed may be a reply that was lost: what has its
    /// name is looked for, and one list proves nothing.
    async fn made_machine(&self, saga: &Saga) -> Result<Option<String>, Trouble> {
        let facts = &saga.facts;
        if facts.new_machine.is_some() || Self::is_in_place(saga) {
            return Ok(facts.new_machine.clone());
        }
        for _ in 0..2 {
            let listed = self.works.fly.machines(&facts.app).await?;
            let ours = |one: &&Machine| one.name == facts.name && one.metadata(RUN) == Some(self.id());
            if let Some(machine) = listed.iter().find(ours) {
                return Ok(Some(machine.id.clone()));
            }
            sleep(self.works.manner.apart).await;
        }
        Ok(None)
    }

    /// The branch that was made for this generation, likewise.
    async fn made_branch(&self, saga: &Saga) -> Result<Option<String>, Trouble> {
        let facts = &saga.facts;
        if facts.new_branch.is_some() || !facts.course.strategy.forks() {
            return Ok(facts.new_branch.clone());
        }
        for _ in 0..2 {
            let named = self.works.neon.branch_named(&facts.project, &facts.name).await?;
            let is_ours = |one: &Branch| one.annotations.get(RUN).map(String::as_str) == Some(self.id());
            if let Some(branch) = named.filter(is_ours) {
                return Ok(Some(branch.id));
            }
            sleep(self.works.manner.apart).await;
        }
        Ok(None)
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
