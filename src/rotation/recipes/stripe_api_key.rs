//! `STRIPE_API_KEY`: only a person can make one.

use super::{DEPLOY, HEALTH, await_death, contacts, prove, write_fly};
use crate::rotation::{
    SecretName,
    recipe::{
        Action, Ask, Authority, Check, Exercise, Overlap, ProbeName, Recipe, Rollout, Step, Strategy,
        ValueKind,
    },
};

pub(super) static RECIPE: Recipe = Recipe {
    secret: SecretName::StripeApiKey,
    purpose: "Customers, subscriptions and checkout at Stripe (internal/billing.StripeProvider), and the erasure of a \
              customer under GDPR Art. 17. Live keys are sk_live_….",
    kept: &["Fly secret of the control plane"],
    coupled: None,
    blast_radius: "Nobody can subscribe, change a plan or be erased at Stripe. Tenants that run go on running.",
    half_done: "When Stripe expires the old key and a machine still has it, billing fails there.",
    watch: None,
    contacts: &[contacts::STRIPE],
    max_age_days: Some(180),
    rollout: Rollout::Stage,
    by_hand: include_str!("by_hand/stripe_api_key.sh"),
    strategies: &[Strategy {
        name: "dashboard",
        when: "Always: no API makes or rolls secret keys. It is independent of STRIPE_WEBHOOK_SECRET.",
        overlap: Overlap::Window,
        steps: &[
            Step {
                name: "roll",
                action: Action::Ask(Ask {
                    value: ValueKind::StripeKey,
                    how: "in the Stripe dashboard, Developers → API keys, roll the live secret key with an expiry of \
                          some days, and give the new one here",
                }),
                text: "Stripe dashboard → Developers → API keys → Roll key on the secret key. Choose an expiry that \
                       leaves time for the deploy (Stripe offers up to 7 days), and give the new key to reseal.",
                calls: "-",
                by: Authority::Operator,
                seconds: 120,
            },
            Step {
                name: "same-account",
                action: Action::Check(Check::SameAccount),
                text: "Check that the new key is of the same mode (live or test) and account as the old one.",
                calls: "GET /v1/account",
                by: Authority::NewValue,
                seconds: 1,
            },
            prove(ProbeName::StripeKey, "The new key is accepted.", "GET /v1/balance"),
            write_fly("STRIPE_API_KEY"),
            DEPLOY,
            HEALTH,
            Step {
                name: "checkout",
                action: Action::Exercise(Exercise::Checkout),
                text: "From an authenticated test session, ask the control plane for a checkout: its URL is Stripe's.",
                calls: "POST {control plane}/cp/billing/checkout",
                by: Authority::ControlPlaneToken,
                seconds: 5,
            },
            await_death(
                ProbeName::StripeKey,
                "Stripe ends the old key when its expiry is over: there is nothing to revoke. It is tried until it \
                 is refused.",
                "GET /v1/balance",
            ),
        ],
    }],
};
