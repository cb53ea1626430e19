//! The URL of a database, which may hold a password: where it may stand, and how it is shown.

use reseal::secret::SecretText;
use url::Url;

use super::{ConfigError, Origin, Value, definition, secret_at};

/// What the URL of a SQLite database begins with; the rest is a path as it is, and need not be a URL's.
pub(crate) const SQLITE: &str = "sqlite://";

/// Where the URL of a database is to be had from.
pub(crate) struct DatabaseUrl<'a> {
    setting: &'static str,
    value: &'a Value,
}

impl<'a> DatabaseUrl<'a> {
    /// Refuses a URL with a password where others can see it: in the arguments or in the file of settings.
    ///
    /// # Errors
    /// Names the place and the remedy, never the URL.
    pub(crate) fn new(setting: &'static str, value: &'a Value) -> Result<Self, ConfigError> {
        let place = value.origin.describe(setting);
        let text = value.text();
        if let Some(name) = text.strip_prefix("env:") {
            let legal = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !legal || name.is_empty() {
                return Err(ConfigError::new(format!(
                    "{place}: env: takes the name of an environment variable"
                )));
            }
        } else if !text.starts_with("file:") && !text.starts_with(SQLITE) {
            let exposed = matches!(value.origin, Origin::Flag | Origin::File(_));
            match Url::parse(text) {
                Err(_) => return Err(no_url(&place)),
                Ok(url) if exposed && holds_password(&url) => {
                    return Err(ConfigError::new(format!(
                        "{place} holds a password, which others could read"
                    ))
                    .hint(format!(
                        "set {}, or name where the URL is: env:NAME or file:PATH",
                        definition(setting).variable()
                    )));
                }
                Ok(_) => {}
            }
        }
        Ok(Self { setting, value })
    }

    /// The URL itself.
    ///
    /// # Errors
    /// A variable that is not set, or a file that can't be read or is open to others.
    pub(crate) fn load(&self) -> Result<SecretText, ConfigError> {
        let text = self.value.text();
        let url = secret_at(text).unwrap_or_else(|| Ok(SecretText::new(text.to_owned())))?;
        let is_url = url.expose().starts_with(SQLITE) || Url::parse(url.expose()).is_ok();
        if is_url { Ok(url) } else { Err(no_url(&self.value.origin.describe(self.setting))) }
    }

    /// The URL as it may be shown: without its password.
    pub(crate) fn masked(&self) -> String {
        match Url::parse(self.value.text()) {
            Ok(mut url) if !["env", "file", "sqlite"].contains(&url.scheme()) && holds_password(&url) => {
                // Only a URL without a host refuses a password, and it has none to hide.
                let _ = url.password().is_some().then(|| url.set_password(Some("***")));
                url.set_query(None);
                url.into()
            }
            _ => self.value.text().to_owned(),
        }
    }
}

/// Where the database at `url` is, as it may be shown: its file, or host, port and name. No user, password or option.
pub(crate) fn place_of(url: &SecretText) -> String {
    if let Some(path) = url.expose().strip_prefix(SQLITE) {
        return path.to_owned();
    }
    let Ok(url) = Url::parse(url.expose()) else { return String::new() };
    let socket = url.query_pairs().find(|(key, _)| key == "host").map(|(_, value)| value.into_owned());
    let host = url.host_str().map(str::to_owned).filter(|host| !host.is_empty()).or(socket);
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}{}", host.unwrap_or_default(), url.path())
}

fn no_url(place: &str) -> ConfigError {
    ConfigError::new(format!("{place} does not hold a database URL"))
        .hint("postgres://USER@HOST/DATABASE or sqlite://FILE; a password goes in DATABASE_URL, env:NAME or file:PATH")
}

/// sqlx takes a password from the authority and from the query.
fn holds_password(url: &Url) -> bool {
    url.password().is_some() || url.query_pairs().any(|(key, _)| key.eq_ignore_ascii_case("password"))
}
