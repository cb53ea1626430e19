//! A variable in the environment of one machine's own configuration.

use serde_json::{Map, Value};

use super::{
    DeployError, Fly, Machine,
    change::{Change, Changing, Launch},
};
use crate::{providers::Patience, secret::SecretText};

/// A variable of one machine.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Authorised to update the machine.
    pub fly: Fly,
    /// The machine's app.
    pub app: String,
    /// The machine's id.
    pub machine: String,
    /// The variable's name.
    pub variable: String,
    /// Until the machine is leased and updated, and until it is healthy.
    pub patience: Patience,
}

impl Environment {
    /// Sets the variable to what `edit` makes of its value, and has the machine start with that; whether it had to. A
    /// value of which `edit` makes nothing stays, and a machine without the variable stays without it.
    ///
    /// # Errors
    /// [`DeployError`].
    ///
    /// # Crash safety
    /// One call changes the machine. An `edit` that makes nothing of what it made leaves a machine alone the second time.
    pub async fn edit(
        &self,
        edit: &(dyn Fn(&str) -> Option<SecretText> + Sync),
    ) -> Result<bool, DeployError> {
        let change = Variable { name: &self.variable, edit };
        if change.is_done(&self.fly.machine(&self.app, &self.machine).await?) {
            return Ok(false);
        }
        let version = self.fly.vault_version(&self.app).await?;
        let (fly, app, patience) = (&self.fly, self.app.as_str(), self.patience);
        let changing = Changing { fly, app, patience, version, change: &change, launch: Launch::IfUp };
        changing.bring(&self.machine).await
    }
}

struct Variable<'a> {
    name: &'a str,
    edit: &'a (dyn Fn(&str) -> Option<SecretText> + Sync),
}

impl Variable<'_> {
    fn edited(&self, config: &Map<String, Value>) -> Option<SecretText> {
        let value = config.get("env").and_then(|env| env.get(self.name)).and_then(Value::as_str);
        value.and_then(self.edit)
    }
}

impl Change for Variable<'_> {
    fn is_done(&self, machine: &Machine) -> bool {
        machine.config.as_object().is_none_or(|config| self.edited(config).is_none())
    }

    fn apply(&self, config: &mut Map<String, Value>) {
        if let Some(new) = self.edited(config) {
            config["env"][self.name] = new.expose().into();
        }
    }
}
