//! What the settings say there is: an access to each vendor that a credential is set for.

use std::{num::NonZero, path::Path, sync::Arc};

use reseal::{
    providers::{
        control_plane::ControlPlane,
        fly::Fly,
        github::{BadRepository, GitHub},
        http::{BadBase, Manner},
        neon::Neon,
        resend::Resend,
        stripe::Stripe,
        upstash::Upstash,
    },
    rotation::{
        Billing, Cache, Estate, FlyApp, Mailer, NeonProject, Publisher, Table,
        recipe::{Action, Check, Exercise, Step},
    },
    secret::SecretText,
    store::Store,
};
use url::Url;

use crate::{
    cli::{Call, Fault, connect, meant},
    config::{SQLITE, definition},
};

/// Connections to the tenants' table.
const CONNECTIONS: u32 = 8;

/// What the settings say. The table is connected to where one of the steps needs it: `journal` is used again if that is its
/// database.
pub(super) async fn estate(call: &Call, journal: &Journal, steps: &[Step]) -> Result<Estate, Fault> {
    let session = call.settings.token("control-plane-token")?;
    let app = text(call, "fly-app");
    let own = format!("https://{app}.fly.dev");
    let url = call.settings.text("control-plane-url").unwrap_or(&own);
    let control_plane =
        based("control-plane-url", ControlPlane::new(url, session.as_ref(), Manner::default()))?;
    let checkout = call.settings.text("checkout-org").zip(call.settings.text("checkout-plan"));
    Ok(Estate {
        fly: fly(call)?,
        publisher: publisher(call)?,
        neon: neon(call)?,
        mailer: mailer(call)?,
        billing: Some(Billing {
            stripe: based("stripe-url", Stripe::new(text(call, "stripe-url"), Manner::default()))?,
            token: call.settings.token("stripe-token")?.map(Arc::new),
        }),
        cache: cache(call)?,
        control_plane: Some(control_plane),
        reprovision: None,
        table: if steps.iter().any(needs_table) { table(call, journal).await? } else { None },
        has_session: session.is_some(),
        checkout: checkout.map(|(org, plan)| (org.to_owned(), plan.to_owned())),
        journal_in_database: match &journal.database {
            Some(database) => is_within(&journal.url, database),
            None => false,
        },
    })
}

/// Where the journal is, and the database of the tenants' table.
pub(in crate::cli) struct Journal {
    pub(in crate::cli) store: Arc<dyn Store>,
    pub(super) url: SecretText,
    pub(super) database: Option<SecretText>,
}

fn text<'a>(call: &'a Call, name: &str) -> &'a str {
    call.settings.text(name).unwrap_or_default()
}

/// A client, or which setting is no base URL.
fn based<T>(setting: &str, client: Result<T, BadBase>) -> Result<T, Fault> {
    client.map_err(|error| Fault::usage(format!("{}: {error}", definition(setting).variable())))
}

/// How a vendor's client goes about its calls, with as many of them a second as the vendor granted.
fn manner(call: &Call, multiple: &str) -> Result<Manner, Fault> {
    let times = call.settings.number(multiple, 1..=1000)?.and_then(|times| u32::try_from(times).ok());
    Ok(Manner { times: times.and_then(NonZero::new).unwrap_or(NonZero::<u32>::MIN), ..Manner::default() })
}

/// Fly, if a token for it is set.
pub(in crate::cli) fn fly(call: &Call) -> Result<Option<FlyApp>, Fault> {
    let app = text(call, "fly-app");
    let Some(token) = call.settings.token("fly-token")?.map(Arc::new) else { return Ok(None) };
    let (machines, graphql) = (text(call, "fly-machines-url"), text(call, "fly-graphql-url"));
    let manner = manner(call, "fly-rate-multiple")?;
    let fly = based("fly-machines-url", Fly::new(machines, graphql, Arc::clone(&token), manner))?;
    let owned = |name: &str| call.settings.text(name).map(str::to_owned);
    Ok(Some(FlyApp { fly, token, app: app.to_owned(), org: owned("fly-org"), redis: owned("fly-redis") }))
}

fn publisher(call: &Call) -> Result<Option<Publisher>, Fault> {
    let Some(token) = call.settings.token("github-token")?.map(Arc::new) else { return Ok(None) };
    let repository = text(call, "github-repo")
        .parse()
        .map_err(|error: BadRepository| Fault::usage(format!("RESEAL_GITHUB_REPO: {error}")))?;
    let github = GitHub::new(text(call, "github-url"), token, repository, Manner::default());
    Ok(Some(Publisher {
        github: based("github-url", github)?,
        workflow: text(call, "github-workflow").to_owned(),
        reference: text(call, "github-ref").to_owned(),
    }))
}

/// Neon, if a key for it is set.
pub(in crate::cli) fn neon(call: &Call) -> Result<Option<NeonProject>, Fault> {
    let Some(token) = call.settings.token("neon-token")? else { return Ok(None) };
    let copy = SecretText::new(token.expose().to_owned());
    Ok(Some(NeonProject {
        neon: based(
            "neon-url",
            Neon::new(text(call, "neon-url"), copy, manner(call, "neon-rate-multiple")?),
        )?,
        token: Arc::new(token),
        org: call.settings.text("neon-org").map(str::to_owned),
        project: text(call, "neon-project").to_owned(),
    }))
}

fn mailer(call: &Call) -> Result<Option<Mailer>, Fault> {
    let Some(token) = call.settings.token("resend-token")? else { return Ok(None) };
    let from = call.settings.text("resend-from").map(str::parse).transpose();
    Ok(Some(Mailer {
        resend: based("resend-url", Resend::new(text(call, "resend-url"), &token, Manner::default()))?,
        token: Arc::new(token),
        from: from.map_err(|_| Fault::usage("RESEAL_RESEND_FROM is no address: Name <name@example.com>"))?,
    }))
}

fn cache(call: &Call) -> Result<Option<Cache>, Fault> {
    let Some(token) = call.settings.token("upstash-token")? else { return Ok(None) };
    let needed = |name: &str| {
        let missing = || Fault::usage(format!("{} is not set", definition(name).variable()));
        call.settings.text(name).ok_or_else(missing)
    };
    let (email, database) = (needed("upstash-email")?, needed("upstash-database")?);
    let upstash = Upstash::new(text(call, "upstash-url"), email, token, Manner::default());
    Ok(Some(Cache { upstash: based("upstash-url", upstash)?, database: database.to_owned() }))
}

fn needs_table(step: &Step) -> bool {
    matches!(
        step.action,
        Action::TenantRows
            | Action::TenantMachines
            | Action::InPlace(_)
            | Action::Check(Check::KmsOnApp | Check::Census)
            | Action::Exercise(Exercise::TenantApps)
    )
}

/// The tenants' table, if its database is named.
pub(in crate::cli) async fn table(call: &Call, journal: &Journal) -> Result<Option<Table>, Fault> {
    let Some(database) = &journal.database else { return Ok(None) };
    let store = if *database == journal.url {
        Arc::clone(&journal.store)
    } else {
        connect::open(call, database, CONNECTIONS).await?
    };
    let keys = call.settings.value("new").map(|_| meant::keys(call)).transpose()?;
    Ok(Some(Table {
        store,
        name: meant::target_name(call)?,
        keys,
        options: meant::options(call)?,
        machine_columns: ["tenants-app-column", "tenants-machine-column"]
            .map(|name| text(call, name).to_owned()),
        redis_variable: text(call, "tenants-redis-variable").to_owned(),
    }))
}

/// Whether a journal at `journal` is lost with the role or the database of `url`.
pub(super) fn is_within(journal: &SecretText, url: &SecretText) -> bool {
    if journal == url {
        return true;
    }
    let file = |url: &SecretText| Path::new(url.expose().strip_prefix(SQLITE)?).canonicalize().ok();
    if let (Some(journal), Some(database)) = (file(journal), file(url)) {
        return journal == database;
    }
    let (Ok(journal), Ok(url)) = (Url::parse(journal.expose()), Url::parse(url.expose())) else {
        return false;
    };
    // Neon's pooler is another door to the same server.
    let server = |url: &Url| {
        let host = url.host_str().unwrap_or_default().replacen("-pooler.", ".", 1);
        (host, url.port().unwrap_or(5432))
    };
    server(&journal) == server(&url) && (journal.path() == url.path() || journal.username() == url.username())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_within_what_it_is_lost_with() {
        let within = |journal: &str, database: &str| {
            is_within(&SecretText::new(journal.to_owned()), &SecretText::new(database.to_owned()))
        };
        let database = "postgresql://owner:one@ep-x-pooler.eu.neon.tech/control?sslmode=require";
        assert!(within(database, database));
        assert!(within("postgres://owner:two@ep-x.eu.neon.tech:5432/control", database));
        assert!(within("postgres://reader@ep-x.eu.neon.tech/control", database));
        assert!(
            within("postgres://owner@ep-x.eu.neon.tech/journal", database),
            "it logs in with the password"
        );
        assert!(!within("postgres://journal@ep-x.eu.neon.tech/journal", database));
        assert!(!within("postgres://owner@ep-y.eu.neon.tech/control", database));
        assert!(!within("sqlite://journal.db", database));
    }
}
