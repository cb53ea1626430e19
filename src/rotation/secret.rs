//! The secrets of the map, by the names of their environment variables.

use std::{fmt, str::FromStr};

/// A secret that a recipe exists for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretName {
    /// Any Fly Machines API call; in two places.
    FlyApiToken,
    /// Tenants' Neon branches.
    NeonApiKey,
    /// The control plane's own database.
    DatabaseUrl,
    /// The Redis that tenants share.
    TenantRedisUrl,
    /// Wraps the tenants' URLs.
    SecretsEncryptionKey,
    /// Transactional mail.
    ResendApiKey,
    /// The address that mail comes from.
    ResendFromEmail,
    /// Billing.
    StripeApiKey,
    /// Proves that a webhook call is Stripe's.
    StripeWebhookSecret,
    /// Made by GitHub for each workflow run.
    GithubToken,
}

impl SecretName {
    /// Every one, in the order in which an incident rotates them.
    pub const ALL: [Self; 10] = [
        Self::FlyApiToken,
        Self::NeonApiKey,
        Self::DatabaseUrl,
        Self::TenantRedisUrl,
        Self::SecretsEncryptionKey,
        Self::StripeApiKey,
        Self::StripeWebhookSecret,
        Self::ResendApiKey,
        Self::ResendFromEmail,
        Self::GithubToken,
    ];

    /// Its name, as in the environment of its consumer.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FlyApiToken => "FLY_API_TOKEN",
            Self::NeonApiKey => "NEON_API_KEY",
            Self::DatabaseUrl => "DATABASE_URL",
            Self::TenantRedisUrl => "TENANT_REDIS_URL",
            Self::SecretsEncryptionKey => "SECRETS_ENCRYPTION_KEY",
            Self::ResendApiKey => "RESEND_API_KEY",
            Self::ResendFromEmail => "RESEND_FROM_EMAIL",
            Self::StripeApiKey => "STRIPE_API_KEY",
            Self::StripeWebhookSecret => "STRIPE_WEBHOOK_SECRET",
            Self::GithubToken => "GITHUB_TOKEN",
        }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is none of the map's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no recipe for a secret of this name")]
pub struct UnknownSecret;

impl FromStr for SecretName {
    type Err = UnknownSecret;

    fn from_str(text: &str) -> Result<Self, UnknownSecret> {
        Self::ALL.into_iter().find(|secret| secret.as_str() == text).ok_or(UnknownSecret)
    }
}
