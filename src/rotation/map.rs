//! The secret map: everything that has a recipe, and everything else that somebody holds.
//!
//! The recipes are [`SecretName::ALL`]; what is here has none: a person renews it, or somebody else's tool.

use super::{SecretName, recipe::Contact};

/// A secret without a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outside {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Where it is kept.
    pub kept: &'static str,
    /// Who holds it.
    pub holder: &'static str,
    /// How it is renewed.
    pub renewed: &'static str,
    /// What kind of thing it is.
    pub role: Role,
}

/// What a secret without a recipe is to reseal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It authorises what reseal does, and outlives every rotation.
    Bootstrap,
    /// The control plane and reseal reach the KMS with it.
    Kms,
    /// It is known, and nothing of reseal's.
    Known,
}

impl Role {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Kms => "kms",
            Self::Known => "not rotated here",
        }
    }
}

const OPERATORS: &str = "environment of whoever runs reseal";

/// Every one.
pub static OUTSIDE: [Outside; 12] = [
    Outside {
        name: "RESEAL_FLY_TOKEN",
        purpose: "Mints and revokes FLY_API_TOKEN, writes the app's secrets, restarts its machines; makes and destroys tenants' \
                  machines.",
        kept: OPERATORS,
        holder: "the operators, as a bot user of the Fly organization; a deploy or organization token can't mint",
        renewed: "fly.io dashboard → Account → Access tokens, as that user; then the old one is revoked there",
        role: Role::Bootstrap,
    },
    Outside {
        name: "RESEAL_GITHUB_TOKEN",
        purpose: "Writes the repository's Actions secret and dispatches the publishing workflow.",
        kept: OPERATORS,
        holder: "the operators, as a fine-grained token for the one repository: Secrets and Actions, read and write",
        renewed: "github.com → Settings → Developer settings → Fine-grained tokens → Regenerate; it expires within a year",
        role: Role::Bootstrap,
    },
    Outside {
        name: "RESEAL_NEON_TOKEN",
        purpose: "Makes and revokes NEON_API_KEY, resets the password in DATABASE_URL; resets tenants' passwords, makes and \
                  empties their branches.",
        kept: OPERATORS,
        holder: "the operators, as an administrator of the Neon organization; a key of one project can't manage keys",
        renewed: "console.neon.tech → Account settings → API keys",
        role: Role::Bootstrap,
    },
    Outside {
        name: "RESEAL_RESEND_TOKEN",
        purpose: "Makes and deletes RESEND_API_KEY, and looks at domains and mails.",
        kept: OPERATORS,
        holder: "the operators, as a key with full access; one that may only send can't manage keys",
        renewed: "resend.com → API Keys",
        role: Role::Bootstrap,
    },
    Outside {
        name: "RESEAL_STRIPE_TOKEN",
        purpose: "Makes and deletes webhook endpoints, and lists undelivered events.",
        kept: OPERATORS,
        holder: "the operators, as a restricted key: Webhook Endpoints write, Events read",
        renewed: "Stripe dashboard → Developers → API keys",
        role: Role::Bootstrap,
    },
    Outside {
        name: "RESEAL_UPSTASH_TOKEN",
        purpose: "Resets the password in TENANT_REDIS_URL, makes and deletes databases.",
        kept: OPERATORS,
        holder: "the operators, with the e-mail address in RESEAL_UPSTASH_EMAIL",
        renewed: "console.upstash.com → Account → Management API",
        role: Role::Bootstrap,
    },
    Outside {
        name: "RESEAL_CONTROL_PLANE_TOKEN",
        purpose: "A test session at the control plane, for a test provision and a test checkout.",
        kept: OPERATORS,
        holder: "the operators, as a test user of the control plane",
        renewed: "log that user in anew",
        role: Role::Bootstrap,
    },
    Outside {
        name: "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
        purpose: "The control plane calls the KMS with them, in the region that AWS_REGION names.",
        kept: "Fly secrets of the control plane",
        holder: "an IAM user of the control plane's own",
        renewed: "IAM makes a second access key; set it, deploy, and see on the first one's \"last used\" that it rests before \
                  it is deleted",
        role: Role::Kms,
    },
    Outside {
        name: "IAM policy of the KMS key",
        purpose: "Allows kms:GenerateDataKey and kms:Decrypt on the one key, to the control plane and to whoever runs reseal.",
        kept: "AWS",
        holder: "the AWS account's administrators",
        renewed: "not a secret; in an incident CloudTrail tells who called Decrypt",
        role: Role::Kms,
    },
    Outside {
        name: "KMS_KEY_ARN",
        purpose: "Names the KMS key. Set, it switches the control plane to reading and writing under the KMS.",
        kept: "Fly secret of the control plane",
        holder: "nobody's secret",
        renewed: "reseal keys rewrap, or a run with --rewrap, moves to another KMS key",
        role: Role::Kms,
    },
    Outside {
        name: "keyring file",
        purpose: "A local KMS, where there is no AWS: its keys wrap the data keys of the table and of the journal.",
        kept: "a file of mode 0600 that local-kms:FILE names, on the machine that runs reseal",
        holder: "the operators; a copy is kept where the machine's loss can't reach it",
        renewed: "reseal keygen --local-kms FILE, then reseal keys rewrap --to local-kms:FILE",
        role: Role::Kms,
    },
    Outside {
        name: "ANTHROPIC_API_KEY",
        purpose: "One key for the whole platform, which tenants' agents use.",
        kept: "platform-wide",
        holder: "the platform's operators",
        renewed: "console.anthropic.com → API keys; no recipe here",
        role: Role::Known,
    },
];

/// Whom to ask in an emergency, each once, in the order of the map.
pub fn contacts() -> Vec<Contact> {
    let mut contacts = Vec::new();
    for contact in SecretName::ALL.into_iter().flat_map(|secret| secret.recipe().contacts) {
        if !contacts.contains(contact) {
            contacts.push(*contact);
        }
    }
    contacts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_credential_that_a_step_needs_is_on_the_map() {
        let strategies = SecretName::ALL.into_iter().flat_map(|secret| secret.recipe().strategies);
        let needed = strategies.flat_map(|strategy| strategy.steps);
        let needed = needed.flat_map(|step| step.by.as_str().split(", "));
        let needed: BTreeSet<_> = needed.filter(|name| name.starts_with("RESEAL_")).collect();
        let bootstrap = OUTSIDE.iter().filter(|outside| outside.role == Role::Bootstrap);
        assert_eq!(needed, bootstrap.map(|outside| outside.name).collect());
    }
}
