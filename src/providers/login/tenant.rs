//! What a tenant's database is asked besides a login: who is in it, and who could be.
//!
//! Whoever held a compromised URL could leave there what its role can make. So every request says where names are
//! looked up: a view of theirs does not answer in the catalog's place. One request is one message of the simple
//! protocol, and so one transaction: nothing stays behind in a pooler's session.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Connection, Error, PgConnection, Row,
    postgres::{PgDatabaseError, PgRow},
};
use tokio::time::{Instant, timeout_at};

use super::{
    not_now,
    postgres::{PROVIDER, options, refusal},
};
use crate::{providers::ProviderError, secret::SecretText};

const SESSIONS: &str = "count the sessions of a database";
const END_IDLE: &str = "end the idle sessions of a database";

const ROLES: &str = "list the roles that log in";
const FORBID: &str = "forbid a role to log in";

/// A tenant's database, by a URL of a role that may look around in it, such as its owner's.
///
/// The cluster's first superuser (its oid is 10) is the vendor's own, such as `cloud_admin` at Neon. It is never counted
/// or listed; other superusers are.
///
/// # Errors
/// Of each request: [`Unauthorized`](ProviderError::Unauthorized) with status 401 if the login was refused, with 403 if
/// the role may not do this; [`Busy`](ProviderError::Busy) if the server was not reached or lets nobody in now.
#[derive(Debug, Clone, Copy)]
pub struct TenantDatabase {
    timeout: Duration,
}

impl TenantDatabase {
    /// A request may take `timeout` as a whole. One that wakes a sleeping compute takes some seconds.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout }
    }

    /// How many sessions others have in this database. Background workers that run as a role are counted: they may write.
    /// So are a pooler's idle ones ([`end_idle_sessions`](Self::end_idle_sessions)).
    ///
    /// # Errors
    /// See [`TenantDatabase`].
    pub async fn sessions(&self, url: &SecretText) -> Result<u64, ProviderError> {
        let sql = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid() AND usesysid <> 10";
        let mut session = self.log_in(SESSIONS, url).await?;
        let rows = session.ask(sql).await?;
        let count = rows.first().and_then(|row| row.try_get::<i64, _>(0).ok());
        count.and_then(|count| u64::try_from(count).ok()).ok_or(unexpected(SESSIONS, "no number"))
    }

    /// Ends the idle sessions of others in this database, as far as the URL's role may. A pooler keeps some long after whoever
    /// used them is gone; who is still there comes back.
    ///
    /// # Errors
    /// See [`TenantDatabase`].
    pub async fn end_idle_sessions(&self, url: &SecretText) -> Result<(), ProviderError> {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid() AND usesysid <> 10 \
                   AND state = 'idle' AND pg_has_role(usesysid, 'MEMBER')";
        let mut session = self.log_in(END_IDLE, url).await?;
        session.ask(sql).await.map(drop)
    }

    /// The roles of the cluster that can log in, by name; those made by SQL too, which a vendor's API may not list.
    ///
    /// # Errors
    /// See [`TenantDatabase`].
    pub async fn login_roles(&self, url: &SecretText) -> Result<Vec<String>, ProviderError> {
        let sql = "SELECT rolname::text FROM pg_roles WHERE rolcanlogin AND oid <> 10 ORDER BY 1";
        let mut session = self.log_in(ROLES, url).await?;
        let rows = session.ask(sql).await?;
        let names: Result<_, Error> = rows.iter().map(|row| row.try_get(0)).collect();
        names.map_err(|_| unexpected(ROLES, "no names"))
    }

    /// Keeps `role` from logging in, and ends its sessions as far as the URL's role may. A role that is gone is done.
    ///
    /// # Errors
    /// See [`TenantDatabase`].
    pub async fn forbid_login(&self, url: &SecretText, role: &str) -> Result<(), ProviderError> {
        let mut session = self.log_in(FORBID, url).await?;
        match session.ask(&format!("ALTER ROLE \"{}\" NOLOGIN", role.replace('"', "\"\""))).await {
            Err(error) if error.is_missing() => return Ok(()),
            altered => altered?,
        };
        // In hexadecimal: what a quote or a backslash means in a text is a setting.
        let ended = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE usename = convert_from(decode('{}', 'hex'), 'UTF8') AND pid <> pg_backend_pid()",
            hex::encode(role)
        );
        match session.ask(&ended).await {
            Err(ProviderError::Unauthorized { .. }) => Ok(()),
            ended => ended.map(drop),
        }
    }

    async fn log_in(&self, call: &'static str, url: &SecretText) -> Result<Session, ProviderError> {
        let options = options(call, url)?;
        let deadline = Instant::now() + self.timeout;
        match timeout_at(deadline, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => Ok(Session { connection, call, deadline }),
            Ok(Err(error)) => Err(refusal(call, &error)),
            Err(_) => Err(not_now(PROVIDER, call, "time-out")),
        }
    }
}

/// A session for one call.
struct Session {
    connection: PgConnection,
    call: &'static str,
    deadline: Instant,
}

impl Session {
    async fn ask(&mut self, sql: &str) -> Result<Vec<PgRow>, ProviderError> {
        let sql = format!("SET LOCAL search_path TO pg_catalog, pg_temp; {sql}");
        let asked = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut self.connection);
        match timeout_at(self.deadline, asked).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => Err(refused(self.call, &error)),
            Err(_) => Err(uncertain(self.call, "time-out")),
        }
    }
}

/// What the server says of a statement, as the status that HTTP has for it.
fn refused(call: &'static str, error: &Error) -> ProviderError {
    let Error::Database(error) = error else { return uncertain(call, "connection lost") };
    let code = error.downcast_ref::<PgDatabaseError>().code();
    let (provider, said) = (PROVIDER, Some(code.to_owned()));
    match code {
        "42501" => ProviderError::Unauthorized { provider, call, status: 403, code: said },
        "42704" => ProviderError::Refused { provider, call, status: 404, code: said },
        // Rolled back for others, no room, or an operator came between: the statement has done nothing.
        _ if ["40", "53", "57"].iter().any(|class| code.starts_with(class)) => {
            not_now(provider, call, format!("SQLSTATE {code}"))
        }
        _ => ProviderError::Refused { provider, call, status: 422, code: said },
    }
}

fn uncertain(call: &'static str, why: &str) -> ProviderError {
    ProviderError::Uncertain { provider: PROVIDER, call, why: why.to_owned() }
}

fn unexpected(call: &'static str, what: &'static str) -> ProviderError {
    ProviderError::Unexpected { provider: PROVIDER, call, what }
}
