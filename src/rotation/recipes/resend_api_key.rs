//! `RESEND_API_KEY`.

use super::{DEPLOY, await_death, contacts, prove, revoke, sweep, write_fly};
use crate::rotation::{
    SecretName,
    recipe::{
        Action, Authority, Check, Exercise, IssuerName, Overlap, ProbeName, Recipe, Rollout, Step, Strategy,
    },
};

pub(super) static RECIPE: Recipe = Recipe {
    secret: SecretName::ResendApiKey,
    purpose: "Transactional mail through Resend (internal/email.ResendProvider): the confirmation of an erasure under \
              GDPR Art. 17, and later of a welcome or a change of plan. Empty, the control plane silently sends nothing \
              (DisabledProvider).",
    kept: &["Fly secret of the control plane"],
    coupled: None,
    blast_radius: "Confirmation mails are not sent, and nothing else stops: mail is its only consumer. The erasure itself is \
                   done, and answers 204 all the same.",
    half_done: "A dead key silently skips confirmation mails: the purge succeeds, and only the log tells.",
    watch: Some("purge confirmation email failed"),
    contacts: &[contacts::RESEND],
    max_age_days: Some(180),
    rollout: Rollout::Stage,
    by_hand: include_str!("by_hand/resend_api_key.sh"),
    strategies: &[Strategy {
        name: "two-keys",
        when: "Always: both keys work until the old one is revoked.",
        overlap: Overlap::UntilRevoked,
        steps: &[
            Step {
                name: "sending-domain",
                action: Action::Check(Check::SendingDomain),
                text: "Check that the domain of RESEND_FROM_EMAIL is verified and may send: a new key would not help.",
                calls: "GET /domains, GET /domains/{id}",
                by: Authority::ResendToken,
                seconds: 1,
            },
            Step {
                name: "list-old",
                action: Action::Check(Check::OldIsKnown(IssuerName::ResendKeys)),
                text: "List the live API keys and find the old one by its id. Only that id is revoked later.",
                calls: "GET /api-keys",
                by: Authority::ResendToken,
                seconds: 1,
            },
            Step {
                name: "mint",
                action: Action::Mint(IssuerName::ResendKeys),
                text: "Make a key that may only send, named after this rotation.",
                calls: "POST /api-keys",
                by: Authority::ResendToken,
                seconds: 1,
            },
            prove(ProbeName::ResendKey, "The new key is accepted.", "GET /api-keys"),
            write_fly("RESEND_API_KEY"),
            DEPLOY,
            Step {
                name: "real-send",
                action: Action::Exercise(Exercise::RealSend),
                text: "Send a mail from RESEND_FROM_EMAIL to Resend's test inbox with the new key, and wait until it \
                       is delivered.",
                calls: "POST /emails, GET /emails/{id}",
                by: Authority::NewValue,
                seconds: 15,
            },
            revoke(
                IssuerName::ResendKeys,
                Authority::ResendToken,
                "Delete the old key by its id.",
                "DELETE /api-keys/{id}",
            ),
            await_death(ProbeName::ResendKey, "Use the old key until it is refused.", "GET /api-keys"),
            sweep(IssuerName::ResendKeys, Authority::ResendToken, "GET /api-keys"),
        ],
    }],
};
