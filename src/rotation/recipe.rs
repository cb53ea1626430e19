//! What a recipe is: data. The engine runs it, `rotate plan` and `runbook` print it, and nothing else knows a secret's
//! procedure.

use serde::Serialize;

use super::SecretName;

/// How one secret is rotated, and what to know before.
#[derive(Debug)]
pub struct Recipe {
    /// The secret.
    pub secret: SecretName,
    /// What it is for.
    pub purpose: &'static str,
    /// Where it is kept, for people.
    pub kept: &'static [&'static str],
    /// What must change together with it.
    pub coupled: Option<&'static str>,
    /// What stops when it stops working.
    pub blast_radius: &'static str,
    /// What breaks, and how silently, when the rotation is left half done.
    pub half_done: &'static str,
    /// The log line to watch afterwards.
    pub watch: Option<&'static str>,
    /// Who helps in an emergency.
    pub contacts: &'static [Contact],
    /// How old it may get, in days; `None` where age is no reason to rotate.
    pub max_age_days: Option<u32>,
    /// Whether it waits for the next deploy unless told otherwise.
    pub rollout: Rollout,
    /// The shell commands of a person who has to do it without reseal; empty for what rotates itself.
    pub by_hand: &'static str,
    /// The ways to do it, the usual one first; none for what rotates itself.
    pub strategies: &'static [Strategy],
}

/// Somebody to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Contact {
    /// Who.
    pub who: &'static str,
    /// How to come to them.
    pub how: &'static str,
}

impl Recipe {
    /// The strategy of this name; the usual one without a name.
    pub fn strategy(&self, name: Option<&str>) -> Option<&'static Strategy> {
        match name {
            Some(name) => self.strategies.iter().find(|strategy| strategy.name == name),
            None => self.strategies.first(),
        }
    }

    /// Every location that a strategy writes to or removes from, each once.
    pub fn locations(&self) -> Vec<LocationName> {
        let mut locations = Vec::new();
        for step in self.strategies.iter().flat_map(|strategy| strategy.steps) {
            if let Action::Write(location) | Action::Remove(location) = step.action
                && !locations.contains(&location)
            {
                locations.push(location);
            }
        }
        locations
    }
}

/// When machines get the new value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rollout {
    /// At once, machine by machine.
    Deploy,
    /// With whatever deploys next: the rotation waits for it.
    Stage,
}

/// One way to rotate a secret.
#[derive(Debug)]
pub struct Strategy {
    /// Its name on the command line.
    pub name: &'static str,
    /// When to choose it.
    pub when: &'static str,
    /// Whether the old value works until the end.
    pub overlap: Overlap,
    /// What is done, in order.
    pub steps: &'static [Step],
}

impl Strategy {
    /// The steps of an emergency: the old one is revoked before the new one is distributed, and before it is minted
    /// where the authority to revoke is not the new one itself.
    pub fn emergency_steps(&self) -> Vec<Step> {
        let mut steps = self.steps.to_vec();
        let Some(revoke) = steps.iter().position(|step| matches!(step.action, Action::Revoke(_))) else {
            return steps;
        };
        let step = steps.remove(revoke);
        let makes_value = |step: &Step| matches!(step.action, Action::Mint(_) | Action::Ask(_));
        let mint = steps.iter().position(makes_value).unwrap_or(revoke);
        steps.insert(if step.by == Authority::NewValue { mint + 1 } else { mint }, step);
        steps
    }
}

/// How long the old value and the new one both work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// Until the old one is revoked.
    UntilRevoked,
    /// For a window that the vendor sets.
    Window,
    /// Not at all: between the reset and the last restarted machine the consumer is down.
    None,
}

/// One step. A rotation passes it once, however often it is interrupted.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Its name, unique in the strategy; part of the names of what it mints.
    pub name: &'static str,
    /// What is done.
    pub action: Action,
    /// The same as a sentence.
    pub text: &'static str,
    /// The calls it makes.
    pub calls: &'static str,
    /// What authorises them.
    pub by: Authority,
    /// About how long it takes, in seconds.
    pub seconds: u32,
}

impl Step {
    /// Whether it can be taken back.
    pub fn undo(&self) -> Undo {
        match self.action {
            Action::Mint(issuer) if issuer.replaces() => Undo::Never,
            Action::Mint(_) => Undo::RevokeNew,
            Action::Write(_) => Undo::WriteBack,
            Action::Revoke(_)
            | Action::AwaitWindow(_)
            | Action::Remove(_)
            | Action::InPlace(InPlace::Retire) => Undo::Never,
            _ if self.does_many() => Undo::Never,
            _ => Undo::Nothing,
        }
    }

    /// Whether it changes many things one after another, so that it may be done in part when it stops.
    pub fn does_many(&self) -> bool {
        matches!(
            self.action,
            Action::InPlace(InPlace::Run)
                | Action::Reprovision(Reprovision::Run)
                | Action::TenantRows
                | Action::TenantMachines
        )
    }
}

/// How a step is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// It changed nothing that matters.
    Nothing,
    /// What it minted is revoked.
    RevokeNew,
    /// The old value is written again, and deployed.
    WriteBack,
    /// It can't be: from its intent on there is only forward.
    Never,
}

impl Undo {
    /// In a word, for tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing to undo",
            Self::RevokeNew => "revoke the new one",
            Self::WriteBack => "write the old one back",
            Self::Never => "irreversible",
        }
    }
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Looks whether something holds; changes nothing.
    Check(Check),
    /// Has a provider make the new value.
    Mint(IssuerName),
    /// Has a person give the new value.
    Ask(Ask),
    /// Has a person do something, and say so.
    Confirm(&'static str),
    /// Uses the new value once; it must work.
    Prove(ProbeName),
    /// Writes the new value to a location.
    Write(LocationName),
    /// Has the control plane's machines start with what is written.
    Deploy,
    /// Tries what the secret is for.
    Exercise(Exercise),
    /// Rewrites the plaintext of every row that holds the old value.
    TenantRows,
    /// Gives the new value to each tenant's machine.
    TenantMachines,
    /// Re-keys the tenants' table.
    InPlace(InPlace),
    /// Gives every tenant fresh credentials and a fresh machine.
    Reprovision(Reprovision),
    /// Waits until the old value's window is over.
    AwaitWindow(Window),
    /// Ends the old credential.
    Revoke(IssuerName),
    /// Uses the old value until it is refused.
    AwaitDeath(ProbeName),
    /// Ends what interrupted mints of this rotation left, if anything.
    Sweep(IssuerName),
    /// Removes the old value from a location.
    Remove(LocationName),
}

/// What is looked at before anything is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The bootstrap token is a user's, and so can mint.
    FlyBootstrap,
    /// The old credential is known by id, and the provider lists it as live.
    OldIsKnown(IssuerName),
    /// The repository can be written to, and has the workflow.
    Workflow,
    /// The provider keeps passwords, so that a lost reply can be read again, and the old URL leads to where one is made.
    PasswordsCanBeRead,
    /// The journal is not behind the credential that is rotated.
    JournalIsElsewhere,
    /// There is a second role to alternate with.
    OtherRole,
    /// The old URL is known, so that rows and machines can be told apart that hold it.
    OldUrlIsKnown,
    /// The domain that mail comes from is verified, and sending is enabled.
    SendingDomain,
    /// The address that was given has a verified domain, and sending is enabled.
    NewSendingDomain,
    /// The new key is of the old one's mode and account.
    SameAccount,
    /// The old webhook endpoint is known.
    OldEndpoint,
    /// The control plane has credentials for the KMS.
    KmsOnApp,
    /// The old key is still the one on the control plane.
    Census,
}

/// What a person is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ask {
    /// What kind of value it is, for checking what was pasted.
    pub value: ValueKind,
    /// How to come by it.
    pub how: &'static str,
}

/// Kinds of values that a person can give, told apart by their form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueKind {
    /// `sk_live_…`, `sk_test_…`, `rk_live_…`, `rk_test_…`
    StripeKey,
    /// `whsec_…`
    StripeWebhookSecret,
    /// An RFC 5322 mailbox.
    Mailbox,
}

/// Who makes and ends credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IssuerName {
    /// Limited access tokens of the Fly organization.
    FlyTokens,
    /// Neon API keys.
    NeonKeys,
    /// The password of the role that the control plane uses.
    NeonRole,
    /// The password of the other of two roles.
    NeonOtherRole,
    /// The password of the shared Upstash database.
    UpstashPassword,
    /// Upstash databases.
    UpstashDatabases,
    /// The password of a Redis that Fly made.
    FlyRedis,
    /// Resend API keys.
    ResendKeys,
    /// Stripe webhook endpoints, whose secret comes with them.
    StripeEndpoints,
}

impl IssuerName {
    /// Whether making a new value ends the old one.
    pub fn replaces(self) -> bool {
        matches!(self, Self::NeonRole | Self::UpstashPassword | Self::FlyRedis)
    }

    /// Whether the provider lists what it made, by names that we choose.
    pub fn names(self) -> bool {
        !matches!(self, Self::NeonRole | Self::NeonOtherRole | Self::UpstashPassword | Self::FlyRedis)
    }
}

/// Where a value is kept for its consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocationName {
    /// An app secret of the control plane on Fly.
    Fly(&'static str),
    /// An Actions secret of the repository.
    GitHub(&'static str),
}

impl LocationName {
    /// How people and `--accept-unverified` name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fly(_) => "fly",
            Self::GitHub(_) => "github",
        }
    }

    /// What the value is called there.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Fly(variable) | Self::GitHub(variable) => variable,
        }
    }
}

/// How a value is tried without side effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeName {
    /// `GET /tokens/current`
    FlyToken,
    /// Lists projects.
    NeonKey,
    /// Logs in, `SELECT 1`.
    PostgresLogin,
    /// `AUTH`, `PING`.
    RedisLogin,
    /// Reads nothing that a sending key may not.
    ResendKey,
    /// `GET /v1/balance`
    StripeKey,
}

/// What a secret is for, tried for real.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exercise {
    /// The new token lists machines in every app that tenants have.
    TenantApps,
    /// Three good answers of `/health` in a row.
    HealthThrice,
    /// The publishing workflow is started.
    Dispatch,
    /// The run that was started ends in success.
    Publish,
    /// No run of the workflow that began before the new secret was written is under way.
    DrainWorkflow,
    /// An organization is made, comes to life, and is deleted.
    TestProvision,
    /// A mail is sent and delivered.
    RealSend,
    /// A checkout session at Stripe.
    Checkout,
    /// An event signed with the new secret is taken, and one with a wrong secret is not.
    WebhookEvents,
}

/// Parts of an in-place re-key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InPlace {
    /// The database records writes that are not under the new key.
    Observe,
    /// Every value is re-keyed.
    Run,
    /// The database refuses writes that are not under the new key.
    Enforce,
    /// Every value is proven to open under the new key.
    Verify,
    /// The old key is retired, with a certificate.
    Retire,
}

/// Parts of a re-provisioning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reprovision {
    /// Nothing stands in its way.
    Plan,
    /// Every tenant is brought to its end.
    Run,
    /// The end is proven, with a certificate.
    Verify,
}

/// A window in which the old value still works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Window {
    /// Hours since the step that made or asked for the new value.
    pub hours: u32,
}

/// The credential that authorises a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authority {
    /// None is needed.
    Nobody,
    /// A person.
    Operator,
    /// `RESEAL_FLY_TOKEN`
    FlyToken,
    /// `RESEAL_FLY_TOKEN` and `RESEAL_NEON_TOKEN`
    FlyAndNeonTokens,
    /// `RESEAL_GITHUB_TOKEN`
    GithubToken,
    /// `RESEAL_NEON_TOKEN`
    NeonToken,
    /// `RESEAL_RESEND_TOKEN`
    ResendToken,
    /// `RESEAL_STRIPE_TOKEN`
    StripeToken,
    /// `RESEAL_UPSTASH_TOKEN`
    UpstashToken,
    /// `RESEAL_CONTROL_PLANE_TOKEN`
    ControlPlaneToken,
    /// The database URL.
    Database,
    /// The value that is being rotated in.
    NewValue,
    /// The value that is being rotated out.
    OldValue,
}

impl Authority {
    /// What an operator calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "-",
            Self::Operator => "a person",
            Self::FlyToken => "RESEAL_FLY_TOKEN",
            Self::FlyAndNeonTokens => "RESEAL_FLY_TOKEN, RESEAL_NEON_TOKEN",
            Self::GithubToken => "RESEAL_GITHUB_TOKEN",
            Self::NeonToken => "RESEAL_NEON_TOKEN",
            Self::ResendToken => "RESEAL_RESEND_TOKEN",
            Self::StripeToken => "RESEAL_STRIPE_TOKEN",
            Self::UpstashToken => "RESEAL_UPSTASH_TOKEN",
            Self::ControlPlaneToken => "RESEAL_CONTROL_PLANE_TOKEN",
            Self::Database => "DATABASE_URL",
            Self::NewValue => "the new value",
            Self::OldValue => "the old value",
        }
    }
}
