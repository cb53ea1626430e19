//! The tenants' share of `TENANT_REDIS_URL`: their rows, and their machines.

use std::sync::Arc;

use serde_json::json;

use super::{
    Rotation, RotationError,
    estate::{Estate, Table},
    in_place::run,
    outcome::Taken,
};
use crate::{
    envelope::Cell,
    providers::fly::{DeployError, Environment},
    rekey::{Edit, Edited, Kind, Options, SharedUrl},
    secret::{Plaintext, SecretText},
    store::StoreError,
};

/// Machines that are read from the table at once.
const PAGE: u32 = 500;

impl Estate {
    /// Every app that a tenant's machine is in; none without a table.
    pub(super) async fn tenant_apps(&self) -> Result<Vec<String>, RotationError> {
        let Some(table) = &self.table else { return Ok(Vec::new()) };
        let mut apps = Vec::new();
        let mut pages = MachinePages::of(table).await?;
        while let Some(page) = pages.next().await? {
            apps.extend(page.into_iter().map(|[app, _]| app));
            apps.dedup();
        }
        Ok(apps)
    }

    /// The first machines of the tenants' table, as app and id, at most `count`.
    pub(super) async fn some_tenant_machines(&self, count: usize) -> Result<Vec<[String; 2]>, RotationError> {
        let mut page = MachinePages::of(self.table()?).await?.next().await?.unwrap_or_default();
        page.truncate(count);
        Ok(page)
    }
}

/// The machines of a table's tenants, page by page.
struct MachinePages<'a> {
    table: &'a Table,
    target: crate::store::Target,
    after: Option<[String; 2]>,
    ended: bool,
}

impl<'a> MachinePages<'a> {
    async fn of(table: &'a Table) -> Result<Self, RotationError> {
        let target =
            table.target().await.map_err(|error| RotationError::refused(error.to_string(), "reseal plan"))?;
        Ok(Self { table, target, after: None, ended: false })
    }

    async fn next(&mut self) -> Result<Option<Vec<[String; 2]>>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let [app, machine] = &self.table.machine_columns;
        let page = self.table.store.pairs(&self.target, [app, machine], self.after.as_ref(), PAGE).await?;
        self.ended = page.len() < PAGE as usize;
        self.after = page.last().cloned();
        Ok(Some(page))
    }
}

impl Rotation<'_> {
    /// Every row that holds the old URL holds the new one afterwards.
    pub(super) async fn tenant_rows(&self) -> Result<Taken, RotationError> {
        let (table, keys) = self.tools.estate.keyed_table()?;
        let edit = match self.shared_url()? {
            Ok(edit) => edit,
            Err(why) => return Ok(Taken::Failed(why)),
        };
        let options = Options { kind: Kind::Rewrite(Arc::new(edit)), ..table.options.clone() };
        Ok(run(table, keys, options).await)
    }

    /// From the old server to the new one, for rows and machines alike: each tenant may have a path of its own there.
    fn shared_url(&self) -> Result<Result<SharedUrl, String>, RotationError> {
        let Some(old) = self.pair.old_value() else { return Ok(Err("the old URL is not known".to_owned())) };
        let edit = SharedUrl::new(Self::copied(old), Self::copied(self.new_value()?));
        Ok(edit.map_err(|error| error.to_string()))
    }

    /// Every tenant's machine that has the old server's URL has the new one's afterwards. One that has it already is passed
    /// over, and one that is at another server.
    pub(super) async fn tenant_machines(&self) -> Result<Taken, RotationError> {
        let (table, fly) = (self.tools.estate.table()?, &self.tools.estate.fly()?.fly);
        let shared = match self.shared_url()? {
            Ok(shared) => shared,
            Err(why) => return Ok(Taken::Failed(why)),
        };
        let edit = |url: &str| edited(&shared, url);
        let (mut changed, mut gone) = (0_u64, 0_u64);
        let mut pages = MachinePages::of(table).await?;
        while let Some(page) = pages.next().await? {
            for [app, machine] in page {
                let environment = Environment {
                    fly: fly.clone(),
                    app,
                    machine,
                    variable: table.redis_variable.clone(),
                    patience: self.tools.manner.patience,
                };
                match environment.edit(&edit).await {
                    Ok(true) => changed += 1,
                    Ok(false) => {}
                    Err(DeployError::Provider(error)) if error.is_missing() => gone += 1,
                    Err(error) => return Ok(Taken::of_deploy(&error)),
                }
            }
        }
        let note = format!("{changed} machines updated, {gone} are gone");
        Ok(Taken::done(json!({"changed": changed, "gone": gone, "note": note})))
    }

    /// The same value as `text`, for a call that wants its own.
    pub(super) fn copied(text: &SecretText) -> SecretText {
        SecretText::new(text.expose().to_owned())
    }
}

/// What becomes of a URL outside of any table; `None` where it stays.
fn edited(edit: &SharedUrl, url: &str) -> Option<SecretText> {
    let (cell, mut out) = (Cell { table: "", column: "", row: "" }, Plaintext::new());
    match edit.edit(cell, &Plaintext::from(url.as_bytes().to_vec()), &mut out) {
        Edited::Changed => Some(SecretText::new(std::str::from_utf8(out.expose()).ok()?.to_owned())),
        Edited::Same => None,
    }
}
