//! The person at the terminal, as far as a rotation knows one.

use async_trait::async_trait;

use super::recipe::Ask;
use crate::secret::SecretText;

/// Gives values and does by hand what no API does.
#[async_trait]
pub trait Operator: Send + Sync {
    /// The value that `ask` wants; `None` when nobody can be asked now. `problem` is what was wrong with the one
    /// before.
    async fn give(&self, ask: &Ask, problem: Option<&str>) -> Option<SecretText>;

    /// Whether `what` is done; `None` when nobody can be asked now.
    async fn confirm(&self, what: &str) -> Option<bool>;
}

/// Nobody.
#[derive(Debug, Clone, Copy)]
pub struct Nobody;

#[async_trait]
impl Operator for Nobody {
    async fn give(&self, _: &Ask, _: Option<&str>) -> Option<SecretText> {
        None
    }

    async fn confirm(&self, _: &str) -> Option<bool> {
        None
    }
}
