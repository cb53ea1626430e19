//! What is known of one tenant on its way, and how it rests in the journal.

use serde::{Deserialize, Serialize};

use super::{Course, Phase, ReprovisionError};
use crate::{
    journal::{Owner, Vault},
    keyring::ProofFailed,
    secret::SecretText,
    store::{SagaRow, SagaState},
};

/// What machines of ours have in their metadata, and branches in their annotations: which run made them, and for whom.
pub(super) const RUN: &str = "reseal_run";
pub(super) const TENANT: &str = "reseal_tenant";

/// Ids and names: what later phases need of the earlier ones. Never a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// What decides the phases.
    pub course: Course,
    /// The app that its machine is in.
    pub app: String,
    /// Its machine, as the row said.
    pub machine: String,
    /// Where that runs.
    pub region: String,
    /// Its project.
    pub project: String,
    /// Its branch, as the row said.
    pub branch: String,
    /// The role of its database URL.
    pub role: String,
    /// The database.
    pub database: String,
    /// SHA-256 of the row as the next change of it expects it, in hex.
    pub row: String,
    /// What its new machine and branch are called.
    pub name: String,
    /// The new machine, once it is there.
    pub new_machine: Option<String>,
    /// Where that runs.
    pub new_region: Option<String>,
    /// The new branch, once it is there.
    pub new_branch: Option<String>,
    /// How often passwords were reset: which URLs a machine was launched with.
    pub resets: u32,
    /// Roles that could log in and that the provider did not know; they can't any more.
    pub strangers: Vec<String>,
    /// Whether the old machine was taken out of service by us.
    pub quiesced: bool,
    /// Whether its row names what is new.
    pub moved: bool,
    /// What could not be done, of a tenant that goes back to what it had.
    pub gave_up: Option<String>,
    /// How many old URLs were seen to be refused.
    pub refused: usize,
}

impl Facts {
    /// The branch that the tenant ends on.
    pub fn last_branch(&self) -> &str {
        self.new_branch.as_deref().unwrap_or(&self.branch)
    }

    /// The machine that the tenant ends on.
    pub fn last_machine(&self) -> &str {
        self.new_machine.as_deref().unwrap_or(&self.machine)
    }

    /// Where that runs.
    pub fn last_region(&self) -> &str {
        self.new_region.as_deref().unwrap_or(&self.region)
    }
}

/// The tenant's URLs, old and new.
#[derive(Debug, Default)]
pub(super) struct Urls {
    /// Every old database URL that is known; the tenant's own first.
    pub(super) old: Vec<SecretText>,
    /// Every old Redis URL that is known.
    pub(super) old_redis: Vec<SecretText>,
    /// A new database URL for each role; the tenant's own first.
    pub(super) new: Vec<SecretText>,
    /// The new Redis URL.
    pub(super) redis: Option<SecretText>,
}

impl Urls {
    /// A line for each, with what it is; none of them holds a line break.
    fn text(&self) -> SecretText {
        let kinds = [
            ("old", self.old.iter().collect::<Vec<_>>()),
            ("old-redis", self.old_redis.iter().collect()),
            ("new", self.new.iter().collect()),
            ("redis", self.redis.iter().collect()),
        ];
        let lines =
            || kinds.iter().flat_map(|(kind, urls)| urls.iter().map(move |url| (*kind, url.expose())));
        let mut text = String::with_capacity(lines().map(|(kind, url)| kind.len() + url.len() + 2).sum());
        for (kind, url) in lines() {
            [kind, " ", url, "\n"].iter().for_each(|part| text.push_str(part));
        }
        SecretText::new(text)
    }

    fn parse(text: &SecretText) -> Option<Self> {
        let mut urls = Self::default();
        for line in text.expose().lines() {
            let (kind, url) = line.split_once(' ')?;
            let url = SecretText::new(url.to_owned());
            match kind {
                "old" => urls.old.push(url),
                "old-redis" => urls.old_redis.push(url),
                "new" => urls.new.push(url),
                "redis" => urls.redis = Some(url),
                _ => return None,
            }
        }
        Some(urls)
    }

    /// Adds an old URL, unless it is known.
    pub(super) fn add_old(&mut self, url: &SecretText) {
        add(&mut self.old, url);
    }

    /// Adds an old Redis URL, unless it is known.
    pub(super) fn add_old_redis(&mut self, url: &SecretText) {
        add(&mut self.old_redis, url);
    }
}

fn add(urls: &mut Vec<SecretText>, url: &SecretText) {
    let is_one_line = !url.expose().contains(['\n', '\r']);
    if is_one_line && !urls.contains(url) {
        urls.push(copy(url));
    }
}

/// The same text, for one more owner.
pub(super) fn copy(text: &SecretText) -> SecretText {
    SecretText::new(text.expose().to_owned())
}

/// A tenant on its way.
#[derive(Debug)]
pub(super) struct Saga {
    /// The row of the journal, but for what the fields below say.
    pub(super) row: SagaRow,
    pub(super) phase: Phase,
    pub(super) facts: Facts,
    pub(super) urls: Urls,
}

impl Saga {
    /// A tenant as the journal has it.
    ///
    /// # Errors
    /// [`ReprovisionError::Corrupt`], among others for URLs that none of the journal's data keys opens.
    pub(super) fn load(row: SagaRow, vault: &Vault) -> Result<Self, ReprovisionError> {
        let corrupt = |why| ReprovisionError::Corrupt { run_id: row.run_id.clone(), why };
        let phase = match row.phase.as_str() {
            "" => Phase::Look,
            phase => Phase::parse(phase).ok_or_else(|| corrupt("a phase"))?,
        };
        let facts = serde_json::from_str(&row.detail).map_err(|_| corrupt("what it knows of a tenant"))?;
        let owner = Owner::Tenant { run_id: &row.run_id, tenant: &row.tenant };
        let urls = match &row.sealed {
            None => Urls::default(),
            Some(sealed) => {
                let text = vault.open(owner, sealed).ok_or_else(|| {
                    ReprovisionError::refused(
                        format!("the URLs of {} in the journal open under none of its data keys", row.tenant),
                        "name the KMS key that the journal is sealed under: --kms KEY",
                    )
                })?;
                Urls::parse(&text).ok_or_else(|| corrupt("a tenant's URLs"))?
            }
        };
        Ok(Self { row, phase, facts, urls })
    }

    /// The row to journal, in this state.
    pub(super) fn to_row(&self, state: SagaState, vault: &Vault) -> Result<SagaRow, ProofFailed> {
        let owner = Owner::Tenant { run_id: &self.row.run_id, tenant: &self.row.tenant };
        let sealed = vault.seal(owner, &self.urls.text())?;
        Ok(SagaRow {
            phase: self.phase.as_str().to_owned(),
            state,
            detail: serde_json::to_string(&self.facts).unwrap_or_default(),
            sealed: Some(sealed),
            ..self.row.clone()
        })
    }

    /// The tenant's key, as text.
    pub(super) fn tenant(&self) -> &str {
        &self.row.tenant
    }
}

/// What a tenant's machine and branch of a generation are called: letters, digits and hyphens, and no two tenants' alike.
pub fn name_of(tenant: &str, generation: i64) -> String {
    let plain = tenant.len() <= 40
        && !tenant.is_empty()
        && !tenant.contains("--")
        && tenant.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if plain {
        return format!("t-{tenant}-g{generation}");
    }
    let kept: String = tenant.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
    let digest = <sha2::Sha256 as sha2::Digest>::digest(tenant);
    // Two hyphens: no plain tenant's name has them.
    format!("t-{}--{}-g{generation}", kept.to_ascii_lowercase(), hex::encode(&digest[..8]))
}

/// Whether a name is one of ours for a tenant.
pub(super) fn is_ours(name: &str) -> bool {
    name.strip_prefix("t-")
        .and_then(|rest| rest.rsplit_once("-g"))
        .is_some_and(|(tenant, generation)| !tenant.is_empty() && generation.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretText {
        SecretText::new(text.to_owned())
    }

    #[test]
    fn urls_rest_and_come_back() {
        let urls = Urls {
            old: vec![secret("postgresql://a:b@h/d?x=y z"), secret("postgresql://a:c@h/d")],
            old_redis: vec![],
            new: vec![secret("postgresql://a:n@h/d"), secret("postgresql://b:n@h/d")],
            redis: Some(secret("redis://:r@h")),
        };
        let back = Urls::parse(&urls.text()).unwrap();
        assert_eq!((back.old, back.new, back.redis), (urls.old, urls.new, urls.redis));
        assert!(Urls::parse(&secret("")).unwrap().new.is_empty());
        assert!(Urls::parse(&secret("what is-this\n")).is_none());
        assert!(Urls::parse(&secret("nothing\n")).is_none());
    }

    #[test]
    fn a_url_of_two_lines_is_none() {
        let mut urls = Urls::default();
        urls.add_old(&secret("postgres://a\nnew postgres://b"));
        assert!(urls.old.is_empty());
    }

    #[test]
    fn names_are_for_dns_and_no_two_tenants_share_one() {
        assert_eq!(name_of("acme", 1), "t-acme-g1");
        let odd = ["a--b", "Acme", "ac me", "", "acme/../x", "a\u{fc}", &"x".repeat(80)];
        let names: Vec<_> = odd.iter().map(|tenant| name_of(tenant, 3)).collect();
        for name in &names {
            assert!(name.len() <= 63 && is_ours(name), "{name}");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{name}"
            );
        }
        let mut different = names.clone();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), names.len());
        assert!(!is_ours("t-acme") && !is_ours("web-g1") && !is_ours("t--gx"));
    }
}
