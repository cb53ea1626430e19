//! From settings to a database, and to the table in it.

use std::{path::Path, sync::Arc};

use reseal::{
    rekey,
    secret::SecretText,
    store::{
        Finding, Store, Target, TargetName,
        postgres::{Postgres, Tls},
        sqlite::Sqlite,
    },
};

use super::{Call, Fault, args};
use crate::config::{DatabaseUrl, SQLITE, place_of};

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

/// The table, when it is fit to be re-keyed, and its name stands for no other.
pub(super) async fn registered_target(
    call: &Call,
    store: &dyn Store,
    name: &TargetName,
) -> Result<Target, Fault> {
    let target = target(store, name).await?;
    let Some(other) = rekey::registered_otherwise(store, &target).await? else { return Ok(target) };
    let as_registered =
        other.registered.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>();
    let asked = target.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>();
    let fault = Fault::refused(other.to_string());
    let own = |columns: &[&str]| format!("{} --logical-name OTHER", call.again_with_columns(columns));
    Err(match other.columns_left().as_slice() {
        [] if asked == as_registered => fault.hint(format!("as a target of its own: {}", own(&asked))),
        [] => fault
            .hint(format!("as it is registered: {}", call.again_with_columns(&as_registered)))
            .hint(format!("as a target of its own: {}", own(&asked))),
        left => fault
            .hint(format!("as it is registered: {}", call.again_with_columns(&as_registered)))
            .hint(format!("the others, as a target of their own: {}", own(left))),
    })
}

/// Whether the settings name a SQLite file.
pub(super) fn is_sqlite(call: &Call) -> bool {
    matches!(url(call, "database-url"), Ok(Some(url)) if url.expose().starts_with(SQLITE))
}

/// The database that the settings name, without its password; `None` where a command may mean the journal's.
pub(super) fn place(call: &Call) -> Option<String> {
    if args::takes(&call.name, "state-url") && call.settings.value("state-url").is_some() {
        return None;
    }
    Some(place_of(&url(call, "database-url").ok()??))
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
