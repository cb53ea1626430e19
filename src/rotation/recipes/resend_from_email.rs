//! `RESEND_FROM_EMAIL`: no secret, but nobody checks it at deploy.

use super::{DEPLOY, contacts, write_fly};
use crate::rotation::{
    SecretName,
    recipe::{Action, Ask, Authority, Check, Exercise, Overlap, Recipe, Rollout, Step, Strategy, ValueKind},
};

pub(super) static RECIPE: Recipe = Recipe {
    secret: SecretName::ResendFromEmail,
    purpose: "The address that mail comes from (RFC 5322), such as \"Molecule AI <noreply@moleculesai.app>\". No secret, \
              and kept like one.",
    kept: &["Fly secret of the control plane"],
    coupled: None,
    blast_radius: "Every mail is refused (403, domain not verified) while its domain is not verified at Resend.",
    half_done: "Nothing checks the address when it is deployed: a wrong one silently loses every mail.",
    watch: Some("purge confirmation email failed"),
    contacts: &[contacts::RESEND],
    max_age_days: None,
    rollout: Rollout::Stage,
    by_hand: include_str!("by_hand/resend_from_email.sh"),
    strategies: &[Strategy {
        name: "address",
        when: "Always.",
        overlap: Overlap::UntilRevoked,
        steps: &[
            Step {
                name: "choose",
                action: Action::Ask(Ask {
                    value: ValueKind::Mailbox,
                    how: "the new From address, such as: Molecule AI <noreply@moleculesai.app>",
                }),
                text: "Give the new address.",
                calls: "-",
                by: Authority::Operator,
                seconds: 60,
            },
            Step {
                name: "sending-domain",
                action: Action::Check(Check::NewSendingDomain),
                text: "Check that its domain is verified at Resend and may send. Verified means SPF, DKIM and DMARC \
                       records at the DNS provider.",
                calls: "GET /domains, GET /domains/{id}",
                by: Authority::ResendToken,
                seconds: 1,
            },
            write_fly("RESEND_FROM_EMAIL"),
            DEPLOY,
            Step {
                name: "real-send",
                action: Action::Exercise(Exercise::RealSend),
                text: "Send a mail from the new address to Resend's test inbox, and wait until it is delivered.",
                calls: "POST /emails, GET /emails/{id}",
                by: Authority::ResendToken,
                seconds: 15,
            },
        ],
    }],
};
