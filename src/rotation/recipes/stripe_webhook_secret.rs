//! `STRIPE_WEBHOOK_SECRET`.

use super::{DEPLOY, HEALTH, contacts, revoke, sweep, write_fly};
use crate::rotation::{
    SecretName,
    recipe::{
        Action, Ask, Authority, Check, Exercise, IssuerName, Overlap, Recipe, Rollout, Step, Strategy,
        ValueKind, Window,
    },
};

const EVENTS: Step = Step {
    name: "events",
    action: Action::Exercise(Exercise::WebhookEvents),
    text: "Send a test event of type reseal.probe, signed with the new secret: it is taken. Send one with a wrong \
           secret: it gets 400, which proves that the check is on. Neither names a customer.",
    calls: "POST {control plane}/webhooks/stripe",
    by: Authority::NewValue,
    seconds: 2,
};

pub(super) static RECIPE: Recipe = Recipe {
    secret: SecretName::StripeWebhookSecret,
    purpose: "Proves that a call of the billing webhook is Stripe's, and rejects forged ones \
              (internal/billing.verifySignature). It is whsec_….",
    kept: &["Fly secret of the control plane"],
    coupled: None,
    blast_radius: "Stripe's events are refused, and retried for up to 3 days: subscriptions lag behind.",
    half_done: "After the 24-hour window Stripe signs with the new secret only: a machine with the old one refuses \
                every event.",
    watch: Some("invalid signature"),
    contacts: &[contacts::STRIPE],
    max_age_days: Some(180),
    rollout: Rollout::Stage,
    by_hand: include_str!("by_hand/stripe_webhook_secret.sh"),
    strategies: &[
        Strategy {
            name: "dashboard",
            when: "Usually: for 24 hours Stripe signs with both secrets. It is independent of STRIPE_API_KEY.",
            overlap: Overlap::Window,
            steps: &[
                Step {
                    name: "roll",
                    action: Action::Ask(Ask {
                        value: ValueKind::StripeWebhookSecret,
                        how: "in the Stripe dashboard, Developers → Webhooks → the endpoint → Roll secret, with a delay \
                              of 24 hours, and give the new whsec_… here",
                    }),
                    text: "Stripe dashboard → Developers → Webhooks → the control plane's endpoint → Roll secret, with \
                           the longest delay (24 hours), and give the new secret to reseal.",
                    calls: "-",
                    by: Authority::Operator,
                    seconds: 120,
                },
                write_fly("STRIPE_WEBHOOK_SECRET"),
                DEPLOY,
                HEALTH,
                EVENTS,
                Step {
                    name: "window",
                    action: Action::AwaitWindow(Window { hours: 24 }),
                    text: "Wait until the 24 hours are over: Stripe then forgets the old secret. The rotation parks, \
                           and shows the time.",
                    calls: "-",
                    by: Authority::Nobody,
                    seconds: 86_400,
                },
            ],
        },
        Strategy {
            name: "second-endpoint",
            when: "No person is at hand for the dashboard. Until the deploy, deliveries of the new endpoint are refused \
                   and retried by Stripe; afterwards those of the old one, until it is deleted.",
            overlap: Overlap::UntilRevoked,
            steps: &[
                Step {
                    name: "old-endpoint",
                    action: Action::Check(Check::OldEndpoint),
                    text: "List the webhook endpoints and find the old one by its id.",
                    calls: "GET /v1/webhook_endpoints",
                    by: Authority::StripeToken,
                    seconds: 1,
                },
                Step {
                    name: "create",
                    action: Action::Mint(IssuerName::StripeEndpoints),
                    text: "Make an endpoint with the old one's URL, events and API version, named after this rotation.",
                    calls: "POST /v1/webhook_endpoints",
                    by: Authority::StripeToken,
                    seconds: 1,
                },
                write_fly("STRIPE_WEBHOOK_SECRET"),
                DEPLOY,
                HEALTH,
                EVENTS,
                revoke(
                    IssuerName::StripeEndpoints,
                    Authority::StripeToken,
                    "List what the old endpoint did not deliver, and delete it by its id: that ends its retries.",
                    "GET /v1/events?delivery_success=false, DELETE /v1/webhook_endpoints/{id}",
                ),
                sweep(IssuerName::StripeEndpoints, Authority::StripeToken, "GET /v1/webhook_endpoints"),
            ],
        },
    ],
};
