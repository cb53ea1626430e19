//! What is looked at before anything is changed. Nothing here changes anything.

use serde_json::json;

use super::{
    Rotation, RotationError,
    estate::{self, NeonProject},
    outcome::Taken,
    recipe::{Check, IssuerName},
};
use crate::providers::{Mailbox, ProviderError, resend::DomainState, stripe};

fn unless(holds: bool, problem: impl Into<String>) -> Taken {
    if holds { Taken::done(json!({})) } else { Taken::Failed(problem.into()) }
}

impl Rotation<'_> {
    pub(super) async fn check(&self, check: Check) -> Result<Taken, RotationError> {
        let estate = self.tools.estate;
        match check {
            Check::FlyBootstrap => {
                let fly = estate.fly()?;
                Ok(Taken::of_answer(fly.tokens(None)?.may_mint().await, |()| Taken::done(json!({}))))
            }
            Check::OldIsKnown(issuer) => self.old_is_known(issuer).await,
            Check::OldEndpoint => self.old_is_known(IssuerName::StripeEndpoints).await,
            Check::Workflow => self.workflow_exists().await,
            Check::PasswordsCanBeRead => self.passwords_can_be_read().await,
            Check::JournalIsElsewhere => Ok(unless(
                !estate.journal_in_database,
                "the journal is in the database whose password changes: name another place with --state-url \
                 sqlite://FILE",
            )),
            Check::OtherRole => self.other_role().await,
            Check::OldUrlIsKnown => Ok(match self.pair.old_value() {
                Some(_) => Taken::done(json!({})),
                None => self.old_is_unknown(),
            }),
            Check::SendingDomain => {
                let mailer = estate.mailer()?;
                match &mailer.from {
                    Some(from) => self.sending_domain(from).await,
                    None => {
                        Ok(Taken::Failed("RESEND_FROM_EMAIL is not known: set RESEAL_RESEND_FROM".to_owned()))
                    }
                }
            }
            Check::NewSendingDomain => match self.new_value()?.expose().parse::<Mailbox>() {
                Ok(from) => self.sending_domain(&from).await,
                Err(error) => Ok(Taken::Failed(error.to_string())),
            },
            Check::SameAccount => self.same_account().await,
            Check::KmsOnApp => self.kms_on_app().await,
            Check::Census => self.census().await,
        }
    }

    /// The project stores passwords, and its default branch is where the old URL leads: the reset is made there.
    async fn passwords_can_be_read(&self) -> Result<Taken, RotationError> {
        let NeonProject { neon, project, .. } = self.tools.estate.neon()?;
        let Some(old) = self.pair.old_value() else { return Ok(self.old_is_unknown()) };
        let looked = async {
            let stores = neon.stores_passwords(project).await?;
            let branch = neon.default_branch(project).await?;
            let endpoints = neon.endpoints(project, &branch.id).await?;
            Ok::<_, ProviderError>((stores, endpoints.iter().any(|endpoint| endpoint.is_of(old))))
        };
        Ok(Taken::of_answer(looked.await, |looked| match looked {
            (false, _) => Taken::Failed(
                "the project does not store passwords: a reset whose reply is lost could not be read"
                    .to_owned(),
            ),
            (true, false) => Taken::Failed(format!(
                "the old {} leads to no endpoint of the default branch of Neon project {project}, whose password would be \
                 reset: set RESEAL_NEON_PROJECT",
                self.recipe.secret
            )),
            (true, true) => Taken::done(json!({})),
        }))
    }

    fn old_is_unknown(&self) -> Taken {
        Taken::Failed(format!("the old {0} is not known: reseal rotate adopt {0}", self.recipe.secret))
    }

    /// The old credential is known by id, and is one of the live ones. What else is live is counted, and left alone.
    async fn old_is_known(&self, name: IssuerName) -> Result<Taken, RotationError> {
        let secret = self.recipe.secret;
        let Some(id) = self.pair.old_id() else {
            return Ok(Taken::Failed(format!(
                "the old {secret} is not known by its id, and could never be revoked: reseal rotate adopt {secret}"
            )));
        };
        let issuer = self.tools.estate.issuer(name, &self.pair, self.tools.manner.patience).await?;
        // A list that lacks it may be stale.
        let found = self.tools.manner.patience.until(async || {
            let listed = issuer.list().await?;
            Ok::<_, ProviderError>(listed.iter().any(|one| one.id == id).then_some(listed.len() - 1))
        });
        Ok(Taken::of_answer(found.await, |found| match found {
            Some(others) => Taken::done(json!({
                "to_revoke": id, "others": others,
                "note": format!("will revoke {id}; {others} others are left alone"),
            })),
            None => Taken::Failed(format!(
                "{id} is not among the live credentials: it is revoked already, or of another account; \
                 name the right one: reseal rotate adopt {secret}"
            )),
        }))
    }

    async fn workflow_exists(&self) -> Result<Taken, RotationError> {
        let (workflow, _) = self.tools.estate.workflow()?;
        Ok(Taken::of_answer(workflow.exists().await, |exists| {
            unless(exists, "the repository has no such workflow: set RESEAL_GITHUB_WORKFLOW")
        }))
    }

    async fn other_role(&self) -> Result<Taken, RotationError> {
        let neon = self.tools.estate.neon()?;
        let Some(old) = self.pair.old_value() else { return Ok(self.old_is_unknown()) };
        let other = match estate::DatabasePlace::of(old).and_then(|place| estate::other_role(&place.role)) {
            Ok(other) => other,
            Err(error) => return Ok(Taken::Failed(error.to_string())),
        };
        let branch = match neon.neon.default_branch(&neon.project).await {
            Ok(branch) => branch,
            Err(error) => return Ok(Taken::of_look(&error)),
        };
        Ok(Taken::of_answer(neon.neon.roles(&neon.project, &branch.id).await, |roles| {
            unless(
                roles.iter().any(|role| role.name == other),
                format!("there is no role {other} to alternate with"),
            )
        }))
    }

    async fn sending_domain(&self, from: &Mailbox) -> Result<Taken, RotationError> {
        let resend = &self.tools.estate.mailer()?.resend;
        let domain = from.domain();
        Ok(Taken::of_answer(resend.sending_domain(domain).await, |state| match state {
            DomainState::Verified { .. } => Taken::done(json!({"domain": domain})),
            DomainState::NotVerified(_) => Taken::Failed(format!(
                "domain {domain} is not verified at Resend: add its DNS records, and verify it there"
            )),
            DomainState::SendingDisabled => Taken::Failed(format!("domain {domain} may not send at Resend")),
            DomainState::Unknown => {
                Taken::Failed(format!("Resend does not know domain {domain}: add it there"))
            }
        }))
    }

    /// The mode can be read off both keys; the account is asked for. Without the old key only the mode of a live
    /// control plane can be wanted.
    async fn same_account(&self) -> Result<Taken, RotationError> {
        let (new, stripe) = (self.new_value()?, &self.tools.estate.billing()?.stripe);
        let Some(old) = self.pair.old_value() else {
            return Ok(self.unverified(
                "same-account",
                "the old key is not known, so the new one's account can't be compared",
            ));
        };
        if stripe::mode(new).ok() != stripe::mode(old).ok() {
            return Ok(Taken::Failed(
                "the new key is of another mode than the old one: live and test do not mix".to_owned(),
            ));
        }
        let account = match stripe.account(new).await {
            Ok(account) => account,
            Err(error) => return Ok(Taken::of_look(&error)),
        };
        Ok(Taken::of_answer(stripe.account(old).await, |of_old| {
            unless(account == of_old, "the new key is of another Stripe account than the old one")
        }))
    }

    /// No check is not a pass: it takes a word of the operator's.
    pub(super) fn unverified(&self, name: &str, why: &str) -> Taken {
        if self.asked.accept_unverified.contains(name) {
            return Taken::done(
                json!({"accepted_unverified": name, "note": format!("not verified, as accepted: {why}")}),
            );
        }
        Taken::Waits(
            super::Wait::for_(format!("a check that can't be made: {why}"))
                .with(format!("--accept-unverified {name}")),
        )
    }
}
