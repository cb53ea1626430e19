//! The tenants' share of `TENANT_REDIS_URL`: their rows, and their machines.

use std::sync::Arc;

use serde_json::json;

use super::{
    Rotation, RotationError,
    estate::{Estate, Table},
    in_place::run,
    outcome::{Taken, Wait},
};
use crate::{
    providers::fly::{DeployError, Environment},
    rekey::{Kind, Options, SharedUrl},
    secret::SecretText,
    store::StoreError,
};

/// Where the table says what a tenant's machine is.
const MACHINE_COLUMNS: [&str; 2] = ["fly_app", "fly_machine_id"];

/// What a tenant's machine calls the URL.
const VARIABLE: &str = "REDIS_URL";

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
        let page = self.table.store.pairs(&self.target, MACHINE_COLUMNS, self.after.as_ref(), PAGE).await?;
        self.ended = page.len() < PAGE as usize;
        self.after = page.last().cloned();
        Ok(Some(page))
    }
}

impl Rotation<'_> {
    /// Every row that holds the old URL holds the new one afterwards.
    pub(super) async fn tenant_rows(&self) -> Result<Taken, RotationError> {
        let table = self.tools.estate.table()?;
        let Some(keys) = &table.keys else {
            return Ok(Taken::Waits(Wait::for_(
                "the keys of the tenants' table: --old KEY --new KEY, the same where the table is under one",
            )));
        };
        let Some(old) = self.pair.old_value() else {
            return Ok(Taken::Failed("the old URL is not known".to_owned()));
        };
        let edit = match SharedUrl::new(Self::copied(old), Self::copied(self.new_value()?)) {
            Ok(edit) => edit,
            Err(error) => return Ok(Taken::Failed(error.to_string())),
        };
        let options = Options { kind: Kind::Rewrite(Arc::new(edit)), ..table.options.clone() };
        Ok(run(table, keys, options).await)
    }

    /// Every tenant's machine that has the old URL has the new one afterwards. One that has it already is passed over.
    pub(super) async fn tenant_machines(&self) -> Result<Taken, RotationError> {
        let (table, fly) = (self.tools.estate.table()?, &self.tools.estate.fly()?.fly);
        let new = self.new_value()?;
        let (mut changed, mut gone) = (0_u64, 0_u64);
        let mut pages = MachinePages::of(table).await?;
        while let Some(page) = pages.next().await? {
            for [app, machine] in page {
                let environment = Environment {
                    fly: fly.clone(),
                    app,
                    machine,
                    variable: VARIABLE.to_owned(),
                    patience: self.tools.manner.patience,
                };
                match environment.set(new, self.pair.old_value()).await {
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
