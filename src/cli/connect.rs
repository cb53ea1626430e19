//! From settings to a database, and to the table in it.

use std::{path::Path, sync::Arc};

use reseal::{
    secret::SecretText,
    store::{
        Finding, Store, Target, TargetName,
        postgres::{Postgres, Tls},
        sqlite::Sqlite,
    },
};

use super::{Call, Fault};
use crate::config::{DatabaseUrl, SQLITE};

/// The database, with at most `connections` connections.
pub(super) async fn store(call: &Call, connections: u32) -> Result<Arc<dyn Store>, Fault> {
    let url = url(call, "database-url")?.ok_or_else(|| {
        Fault::usage("no database is named").hint("set DATABASE_URL, or --database-url env:NAME or file:PATH")
    })?;
    open(call, &url, connections).await
}

/// The URL of a database that a setting gives.
pub(super) fn url(call: &Call, setting: &'static str) -> Result<Option<SecretText>, Fault> {
    let Some(value) = call.settings.value(setting) else { return Ok(None) };
    Ok(Some(DatabaseUrl::new(setting, value)?.load()?))
}

/// The database at `url`.
pub(super) async fn open(call: &Call, url: &SecretText, connections: u32) -> Result<Arc<dyn Store>, Fault> {
    let tls = match call.settings.text("tls") {
        Some("verify-full") => Some(Tls::VerifyFull),
        Some("verify-ca") => Some(Tls::VerifyCa),
        Some("require") => Some(Tls::Require),
        Some("disable") => Some(Tls::Disable),
        _ => None,
    };
    if let Some(path) = url.expose().strip_prefix(SQLITE) {
        return Ok(Arc::new(Sqlite::open(Path::new(path)).await?));
    }
    match url.expose().split_once(':').map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") => Ok(Arc::new(Postgres::connect(url, tls, connections).await?)),
        _ => Err(Fault::usage("the database URL begins with neither postgres:// nor sqlite://")),
    }
}

/// The database, when reseal's own tables are in it.
pub(super) async fn migrated_store(call: &Call, connections: u32) -> Result<Arc<dyn Store>, Fault> {
    let store = store(call, connections).await?;
    if store.is_migrated().await? {
        return Ok(store);
    }
    Err(Fault::refused("reseal's own tables are missing or not up to date").hint(call.again("init")))
}

/// The table, when it is fit to be re-keyed.
pub(super) async fn target(store: &dyn Store, name: &TargetName) -> Result<Target, Fault> {
    let inspection = store.inspect(name).await?;
    unless(inspection.refusals().collect(), inspection.target.clone())
}

/// The table, when it is fit to be read, by a role that may perhaps not write it.
pub(super) async fn target_to_read(store: &dyn Store, name: &TargetName) -> Result<Target, Fault> {
    let inspection = store.inspect(name).await?;
    unless(inspection.refusals_to_read().collect(), inspection.target.clone())
}

fn unless(refusals: Vec<&Finding>, target: Option<Target>) -> Result<Target, Fault> {
    match target {
        Some(target) if refusals.is_empty() => Ok(target),
        _ => {
            let what = refusals.iter().map(|finding| finding.what.as_str()).collect::<Vec<_>>().join("; ");
            Err(refusals.iter().fold(Fault::refused(what), |fault, finding| fault.hint(finding.hint.clone())))
        }
    }
}
