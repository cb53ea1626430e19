//! Whom to ask in an emergency.

use crate::rotation::recipe::Contact;

pub(super) const FLY: Contact = Contact { who: "Fly", how: "billing dashboard at fly.io → Support" };
pub(super) const GHCR: Contact = Contact { who: "GHCR", how: "github.com/orgs/Molecule-AI (org admins)" };
pub(super) const NEON: Contact = Contact { who: "Neon", how: "console.neon.tech → Support" };
pub(super) const UPSTASH: Contact = Contact { who: "Upstash", how: "upstash.com → Support" };
pub(super) const RESEND: Contact =
    Contact { who: "Resend", how: "resend.com/dashboard → Help (email only, about 24 h)" };
pub(super) const STRIPE: Contact = Contact { who: "Stripe", how: "stripe.com/support → live chat" };
