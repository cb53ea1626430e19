//! A variable in the environment of one machine's own configuration.

use serde_json::{Map, Value, json};

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
    /// Sets the variable to `new`, if it has the value `old`, or any where no `old` is given, and has the machine start
    /// with it; whether it had to. A machine without the variable stays without it.
    ///
    /// # Errors
    /// [`DeployError`].
    ///
    /// # Crash safety
    /// One call changes the machine. Set again, one that has the value is left alone.
    pub async fn set(&self, new: &SecretText, old: Option<&SecretText>) -> Result<bool, DeployError> {
        let change = Variable { name: &self.variable, new, old };
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
    new: &'a SecretText,
    old: Option<&'a SecretText>,
}

impl Change for Variable<'_> {
    fn is_done(&self, machine: &Machine) -> bool {
        let value = machine.config.get("env").and_then(|env| env.get(self.name)).and_then(Value::as_str);
        let is_other = |old: &SecretText| value != Some(old.expose());
        value.is_none() || value == Some(self.new.expose()) || self.old.is_some_and(is_other)
    }

    fn apply(&self, config: &mut Map<String, Value>) {
        let environment = config.entry("env").or_insert_with(|| json!({}));
        environment[self.name] = self.new.expose().into();
    }
}
