//! The order when everything was read.

use super::super::SecretName;

/// One stage of an incident. What is rotated in a later one can't be read with what an earlier one ended.
#[derive(Debug)]
pub struct Stage {
    /// What.
    pub what: &'static str,
    /// Why it is its turn.
    pub why: &'static str,
    /// What is to be done, in order.
    pub steps: &'static [&'static str],
    /// The secrets that it replaces.
    pub replaces: &'static [SecretName],
}

/// Every stage, in order.
pub static INCIDENT: [Stage; 8] = [
    Stage {
        what: "The bootstrap credentials and FLY_API_TOKEN",
        why: "Who holds one of them runs commands on the machines, and reads whatever is rotated next.",
        steps: &[
            "renew every RESEAL_*_TOKEN that the machine, its operators' machines or CI could have shown, and revoke the old ones \
             at their vendors (how: Bootstrap credentials, in `reseal runbook`)",
            "`reseal rotate FLY_API_TOKEN --emergency`",
        ],
        replaces: &[SecretName::FlyApiToken],
    },
    Stage {
        what: "NEON_API_KEY",
        why: "Its holder can reveal the password of every role, tenants' and our own: a password that is reset before it is read again.",
        steps: &["`reseal rotate NEON_API_KEY --emergency`"],
        replaces: &[SecretName::NeonApiKey],
    },
    Stage {
        what: "DATABASE_URL",
        why: "It reads and writes every row: organizations, billing, and each tenant's encrypted URLs.",
        steps: &[
            "`reseal rotate DATABASE_URL --strategy reset --emergency`, with the journal elsewhere: `--state-url sqlite://FILE`",
        ],
        replaces: &[SecretName::DatabaseUrl],
    },
    Stage {
        what: "TENANT_REDIS_URL",
        why: "It is open to everybody who was ever given it, and holds every tenant's cache and queues.",
        steps: &[
            "`reseal rotate TENANT_REDIS_URL --strategy reset --emergency`, or `--strategy fly-reset` where Fly made the database",
        ],
        replaces: &[SecretName::TenantRedisUrl],
    },
    Stage {
        what: "The AWS credentials of the control plane",
        why: "Whoever holds them can have the KMS open what is moved under it: they are replaced before anything is. CloudTrail tells \
              who called Decrypt meanwhile.",
        steps: &[
            "in IAM make a second access key, set both AWS_ variables on the app, deploy, delete the first key",
        ],
        replaces: &[],
    },
    Stage {
        what: "SECRETS_ENCRYPTION_KEY, and with it every tenant's own credentials",
        why: "A new key hides the tenants' URLs from now on; who has read one still has it. Only new credentials end that, tenant by \
              tenant: new passwords, a new machine, and the old ones seen to be dead.",
        steps: &[
            "`reseal reprovision plan`: which tenants, in which order, how long each is down, and what stands in the way",
            "`reseal rotate SECRETS_ENCRYPTION_KEY --strategy reprovision`; in another order or with canaries, by hand: the new key on the \
             control plane, then `reseal reprovision run`. `--emergency`, or `--hard`, kills each tenant's old credentials before its new \
             machine is made",
            "`reseal reprovision status` until it exits 0",
        ],
        replaces: &[SecretName::SecretsEncryptionKey],
    },
    Stage {
        what: "STRIPE_API_KEY and STRIPE_WEBHOOK_SECRET",
        why: "Money: charges, refunds and customers' data by the one, forged events by the other. They come after what could have \
              been used to read them again. In the dashboard choose to expire the old ones now.",
        steps: &[
            "`reseal rotate STRIPE_API_KEY --emergency`",
            "`reseal rotate STRIPE_WEBHOOK_SECRET --emergency`",
        ],
        replaces: &[SecretName::StripeApiKey, SecretName::StripeWebhookSecret],
    },
    Stage {
        what: "RESEND_API_KEY",
        why: "It sends mail in our name, and opens nothing else.",
        steps: &["`reseal rotate RESEND_API_KEY --emergency`"],
        replaces: &[SecretName::ResendApiKey],
    },
];

/// The order, in Markdown.
pub fn incident() -> String {
    let stage = |(number, stage): (usize, &Stage)| {
        let steps: String = stage.steps.iter().map(|step| format!("   - {step}\n")).collect();
        format!("{}. **{}.** {}\n{steps}", number + 1, stage.what, stage.why)
    };
    let stages: String = INCIDENT.iter().enumerate().map(stage).collect();
    format!(
        "# When the control plane itself was read\n\n\
         Then nearly every secret was. The order matters: who holds what is rotated late must not be able to read what was rotated \
         early. Note the time first; what is older than it does not count.\n\n\
         `--emergency` ends the old value before the new one is proven, deploys at once, says what is down meanwhile, asks for the \
         secret's name typed back, and is recorded.\n\n{stages}\n\
         The end of it: `reseal secrets check --since TIME`, with the time that was noted, exits 3 until every secret was replaced \
         after it.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incident_replaces_every_secret_in_the_order_of_the_map() {
        let replaced: Vec<_> = INCIDENT.iter().flat_map(|stage| stage.replaces).copied().collect();
        let others = [SecretName::ResendFromEmail, SecretName::GithubToken];
        let all: Vec<_> = SecretName::ALL.into_iter().filter(|secret| !others.contains(secret)).collect();
        assert_eq!(replaced, all);
        for secret in replaced {
            let stage =
                INCIDENT.iter().find(|stage| stage.replaces.contains(&secret)).expect("it was found there");
            let command = format!("`reseal rotate {secret}");
            assert!(stage.steps.iter().any(|step| step.contains(&command)), "{secret}");
        }
    }
}
