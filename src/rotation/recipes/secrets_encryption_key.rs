//! `SECRETS_ENCRYPTION_KEY`: the tenants' table leaves it for a KMS.

use super::{DEPLOY, HEALTH, contacts};
use crate::rotation::{
    SecretName,
    in_place::KMS_KEY,
    recipe::{
        Action, Authority, Check, Exercise, InPlace, LocationName, Overlap, Recipe, Reprovision, Rollout,
        Step, Strategy,
    },
};

const fn in_place(
    name: &'static str,
    part: InPlace,
    seconds: u32,
    text: &'static str,
    calls: &'static str,
) -> Step {
    Step { name, action: Action::InPlace(part), text, calls, by: Authority::Database, seconds }
}

const fn reprovision(
    name: &'static str,
    part: Reprovision,
    seconds: u32,
    text: &'static str,
    calls: &'static str,
) -> Step {
    Step { name, action: Action::Reprovision(part), text, calls, by: Authority::FlyAndNeonTokens, seconds }
}

/// The app can reach the KMS.
const KMS_ON_APP: Step = Step {
    name: "kms-on-app",
    action: Action::Check(Check::KmsOnApp),
    text: "Check that the control plane's app has credentials and a region for the KMS, and that the KMS key \
           wraps and unwraps.",
    calls: "GET /v1/apps/{app}/secrets; GenerateDataKey, Decrypt",
    by: Authority::FlyToken,
    seconds: 3,
};

/// Nobody writes under the old key meanwhile.
const PAUSE: Step = Step {
    name: "pause-provisioning",
    action: Action::Confirm(
        "pause provisioning: between the first and the last updated machine, one that was not updated \
         can't read what an updated one writes",
    ),
    text: "Pause provisioning. Between the first and the last updated machine, one that was not updated \
           can't read what an updated one writes.",
    calls: "-",
    by: Authority::Operator,
    seconds: 60,
};

/// The switch to the KMS.
const WRITE: Step = Step {
    name: "write-fly",
    action: Action::Write(LocationName::Fly(KMS_KEY)),
    text: "Set KMS_KEY_ARN beside the old key. Nothing restarts yet.",
    calls: "POST /v1/apps/{app}/secrets",
    by: Authority::FlyToken,
    seconds: 2,
};

/// The control plane works under the KMS.
const TEST_PROVISION: Step = Step {
    name: "test-provision",
    action: Action::Exercise(Exercise::TestProvision),
    text: "Have the control plane make an organization in the new format, wait until it runs, and delete it.",
    calls: "POST, GET and DELETE {control plane}/cp/orgs",
    by: Authority::ControlPlaneToken,
    seconds: 90,
};

/// The end of the old key on the control plane.
const UNSET_OLD: Step = Step {
    name: "unset-old",
    action: Action::Remove(LocationName::Fly("SECRETS_ENCRYPTION_KEY")),
    text: "Remove the old key from the app.",
    calls: "DELETE /v1/apps/{app}/secrets/SECRETS_ENCRYPTION_KEY",
    by: Authority::FlyToken,
    seconds: 2,
};

pub(super) static RECIPE: Recipe = Recipe {
    secret: SecretName::SecretsEncryptionKey,
    purpose: "AES-256 key of the tenants' database and Redis URLs in org_instances, for the provisioner. Whether \
              tenants hold it too, reseal secrets check finds out.",
    kept: &["Fly secret of the control plane"],
    coupled: Some("KMS_KEY_ARN on the same app: set, it switches reading and writing to the KMS."),
    blast_radius: "Without a key that opens them, every tenant is unreachable until it is made anew.",
    half_done: "The control plane reads both formats while it has both keys. A machine that has only one of them can't \
                read the other's rows.",
    watch: None,
    contacts: &[contacts::FLY],
    max_age_days: None,
    rollout: Rollout::Deploy,
    by_hand: include_str!("by_hand/secrets_encryption_key.sh"),
    strategies: &[IN_PLACE, REPROVISION],
};

/// The same URLs under another key.
const IN_PLACE: Strategy = Strategy {
    name: "in-place",
    when: "The key is to be replaced and the tenants' URLs are not known to anybody else. A URL that somebody has \
           read needs new credentials: re-provision.",
    overlap: Overlap::UntilRevoked,
    steps: &[
        KMS_ON_APP,
        Step {
            name: "census",
            action: Action::Check(Check::Census),
            text: "Look at the table: every value opens under an old key or the new one, and nothing is in the way \
                   of a run.",
            calls: "a plan",
            by: Authority::Database,
            seconds: 10,
        },
        PAUSE,
        in_place(
            "observe",
            InPlace::Observe,
            2,
            "Have the database record every write that is not under the new key.",
            "fence observe",
        ),
        WRITE,
        DEPLOY,
        HEALTH,
        TEST_PROVISION,
        Step {
            name: "readers",
            action: Action::Confirm(
                "every other reader of the table has been given the new key, or is known to need none",
            ),
            text: "Every other reader of the table has been given the new key.",
            calls: "-",
            by: Authority::Operator,
            seconds: 60,
        },
        in_place("run", InPlace::Run, 60, "Re-key every value.", "run"),
        in_place(
            "enforce",
            InPlace::Enforce,
            2,
            "Have the database refuse every write that is not under the new key.",
            "fence enforce",
        ),
        Step {
            name: "last-run",
            ..in_place("run", InPlace::Run, 30, "Re-key what was written before the fence.", "run")
        },
        in_place(
            "verify",
            InPlace::Verify,
            30,
            "Prove on one snapshot that every value opens under the new key.",
            "verify",
        ),
        in_place("retire", InPlace::Retire, 5, "Retire the old key, with a certificate.", "retire"),
        UNSET_OLD,
        Step { name: "deploy-without", ..DEPLOY },
        Step { name: "health-without", ..HEALTH },
    ],
};

/// Other URLs under another key.
const REPROVISION: Strategy = Strategy {
    name: "reprovision",
    when: "The key, or the tenants' URLs, were read by somebody else: every tenant gets fresh credentials and a fresh machine, \
           and nothing old is alive in the end. The old key is not needed.",
    overlap: Overlap::UntilRevoked,
    steps: &[
        KMS_ON_APP,
        reprovision(
            "reprovision-plan",
            Reprovision::Plan,
            60,
            "Look at every tenant's row, machine and branch, and at what the tokens may do: nothing stands in the way of a \
             run. That NEON_API_KEY and TENANT_REDIS_URL were rotated in the last day is part of it; \
             `--accept-unverified NEON_API_KEY` goes on without.",
            "reprovision plan",
        ),
        PAUSE,
        WRITE,
        DEPLOY,
        HEALTH,
        TEST_PROVISION,
        reprovision(
            "reprovision",
            Reprovision::Run,
            1800,
            "Re-provision every tenant by strategy reset, or go on with the run that is open. It waits while a tenant is \
             parked. With `--emergency` each tenant's old credentials die first. In another order, by another strategy or \
             with canaries: by hand, below.",
            "reprovision run",
        ),
        reprovision(
            "reprovision-verify",
            Reprovision::Verify,
            120,
            "Prove the end: every row opens under the new key, every new URL logs in, every old one is refused, nothing is \
             left over; with a certificate.",
            "reprovision run",
        ),
        UNSET_OLD,
        Step { name: "deploy-without", ..DEPLOY },
        Step { name: "health-without", ..HEALTH },
    ],
};
