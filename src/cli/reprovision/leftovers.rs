//! What is left at the providers, as it is said.

use reseal::reprovision::orphans::{Kind, Leftovers, Orphan};
use serde_json::{Value, json};

use crate::{
    cli::stdio::{shown, wrapped},
    config::quote,
};

/// Orphans that a person is shown, with the command that ends each.
const SHOWN: usize = 20;

pub(super) fn json(leftovers: &Leftovers) -> (Value, Value) {
    let one = |orphan: &Orphan| json!({"kind": orphan.kind.as_str(), "place": orphan.place, "id": orphan.id, "name": orphan.name});
    (leftovers.orphans.iter().map(one).collect(), leftovers.retired.iter().map(one).collect())
}

pub(super) fn in_words(leftovers: &Leftovers) -> String {
    let mut text = match leftovers.orphans.len() {
        0 => "Orphans: none, in two lists of every app and project.\n".to_owned(),
        many => format!("Orphans: {many}, made for a tenant and in nobody's use.\n"),
    };
    for orphan in leftovers.orphans.iter().take(SHOWN) {
        let (kind, place) = (orphan.kind.as_str(), shown(&orphan.place));
        text += &wrapped(&format!("{kind} {} in {place}, {}", shown(&orphan.id), shown(&orphan.name)), 2);
    }
    if leftovers.orphans.len() > SHOWN {
        text += &format!("  and {} more\n", leftovers.orphans.len() - SHOWN);
    }
    if !leftovers.retired.is_empty() {
        text += &format!(
            "Retired branches: {}, without a way in; their children need them.\n",
            leftovers.retired.len()
        );
    }
    text
}

/// The vendors' own commands that end the orphans, once a person has looked at them.
pub(super) fn removal(leftovers: &Leftovers) -> Vec<String> {
    let line = |orphan: &Orphan| {
        let (place, id) = (quote(&orphan.place), quote(&orphan.id));
        match orphan.kind {
            Kind::Machine => format!("fly machine destroy --force --app {place} {id}"),
            Kind::Branch => format!("neonctl branches delete --project-id {place} {id}"),
        }
    };
    leftovers.orphans.iter().take(SHOWN).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orphan_is_named_with_the_command_that_ends_it() {
        let orphan = |kind, place: &str| Orphan {
            kind,
            place: place.to_owned(),
            id: "id-1".to_owned(),
            name: "t-acme-g1".to_owned(),
        };
        let leftovers = Leftovers {
            orphans: vec![orphan(Kind::Machine, "tenants"), orphan(Kind::Branch, "a b")],
            retired: vec![orphan(Kind::Branch, "p")],
        };
        assert_eq!(
            removal(&leftovers),
            [
                "fly machine destroy --force --app tenants id-1",
                "neonctl branches delete --project-id 'a b' id-1"
            ]
        );
        let words = in_words(&leftovers);
        assert!(words.contains("  machine id-1 in tenants, t-acme-g1\n"), "{words}");
        assert!(words.contains("Retired branches: 1"), "{words}");
        assert!(in_words(&Leftovers::default()).starts_with("Orphans: none"));
    }
}
