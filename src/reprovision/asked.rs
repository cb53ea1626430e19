//! How a re-provisioning is asked for: kept with the run, since who takes it up does the same.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Course, Strategy};

/// Which tenants come first: those whose column has the first of these values, then the second, and in the end the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The table's column.
    pub column: String,
    /// Its values.
    pub values: Vec<String>,
}

/// How a re-provisioning is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// Where fresh credentials come from.
    pub strategy: Strategy,
    /// Whether it is said that tenants may lose their data.
    pub data_loss_accepted: bool,
    /// Whether the old credentials die first.
    pub hard: bool,
    /// Only these tenants, if any are named.
    pub only: BTreeSet<String>,
    /// Not these.
    pub leave_out: BTreeSet<String>,
    /// These first, in this order.
    pub first: Vec<String>,
    /// Then by this.
    pub order: Option<Order>,
    /// How many tenants are done before the others are begun.
    pub canary: usize,
    /// Whether it stops after them, until it is told to go on.
    pub pause: bool,
    /// Secrets that need not have been rotated before.
    pub accept_unrotated: BTreeSet<String>,
}

impl Asked {
    /// What it asks of every tenant; where its machine has to stay is the tenant's own.
    pub(super) fn course(&self) -> Course {
        Course { strategy: self.strategy, hard: self.hard, ..Course::default() }
    }

    /// Whether a tenant is in it.
    pub(super) fn is_for(&self, tenant: &str) -> bool {
        (self.only.is_empty() || self.only.contains(tenant)) && !self.leave_out.contains(tenant)
    }

    /// Where a tenant comes: smaller numbers first.
    pub(super) fn place(&self, tenant: &str, rank: Option<&str>) -> (usize, usize) {
        let at = |list: &[String], value| list.iter().position(|one| one == value).unwrap_or(list.len());
        let by_rank = self
            .order
            .as_ref()
            .map_or(0, |order| rank.map_or(order.values.len(), |rank| at(&order.values, rank)));
        (at(&self.first, tenant), by_rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_come_first_then_the_ranked_then_the_others() {
        let asked = Asked {
            first: vec!["canary".to_owned()],
            order: Some(Order {
                column: "plan".to_owned(),
                values: vec!["paying".to_owned(), "trial".to_owned()],
            }),
            ..Asked::default()
        };
        let mut tenants =
            [("a", None), ("b", Some("trial")), ("canary", Some("other")), ("d", Some("paying"))];
        tenants.sort_by_key(|(tenant, rank)| asked.place(tenant, *rank));
        assert_eq!(tenants.map(|(tenant, _)| tenant), ["canary", "d", "b", "a"]);
    }

    #[test]
    fn a_tenant_is_left_out_even_if_it_is_named() {
        let of = |tenant: &str| BTreeSet::from([tenant.to_owned()]);
        let asked = Asked { only: of("a"), leave_out: of("a"), ..Asked::default() };
        assert!(!asked.is_for("a") && !asked.is_for("b"));
        assert!(Asked::default().is_for("a"));
    }
}
