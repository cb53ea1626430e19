//! One thin HTTP client for every provider.
//!
//! It adds to a request what every vendor wants (authentication, a name, a time-out), holds the vendor's rate limits,
//! and sorts what comes back into [`ProviderError`]s. A call is repeated by itself only where that is safe: one that
//! reads, one that was marked [`repeatable`](Call::repeatable), and any that the provider says it did not begin.
//! Redirects are not followed: they would carry a credential elsewhere.

mod reply;

use std::{fmt, net::IpAddr, num::NonZero, sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use reqwest::{
    Method,
    header::{AUTHORIZATION, COOKIE, HeaderValue},
};
use serde::Serialize;
use url::{Host, Url};
use zeroize::Zeroizing;

pub use super::pace::Pace;
use super::{ProviderError, pace::Limits};
use crate::secret::SecretText;
pub use reply::Reply;
use reply::Unread;

/// The longest pause that a provider's `Retry-After` is obeyed for within one call.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is true of all of a vendor's API.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Its name in errors.
    pub provider: &'static str,
    /// Statuses by which it says that it has not begun, besides 429.
    pub not_begun: &'static [u16],
    /// Codes by which it refuses whatever the status is, so that with one of them not even a server's error leaves open
    /// what was done.
    pub refusals: &'static [&'static str],
    /// Where the body of an error has a code, as JSON pointers; only texts that look like a code are taken.
    pub codes: &'static [&'static str],
    /// Its rate limits.
    pub paces: &'static [Pace],
}

/// How a client goes about its calls.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// How long one request may take.
    pub timeout: Duration,
    /// How often a call that may be repeated is sent, at most.
    pub tries: usize,
    /// The first pause between two of them; it doubles, with jitter.
    pub pause: Duration,
    /// Whether the vendor's rate limits are held by us already.
    pub paced: bool,
    /// How many times the documented rate limits the vendor has granted this account.
    pub times: NonZero<u32>,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            tries: 6,
            pause: Duration::from_millis(500),
            paced: true,
            times: NonZero::<u32>::MIN,
        }
    }
}

/// What authorises a call.
pub enum Auth {
    /// `Authorization: Bearer …`
    Bearer(Arc<SecretText>),
    /// `Authorization:` and the text as it is: scheme and token in one.
    Verbatim(Arc<SecretText>),
    /// `Authorization: Basic …`
    Basic(String, Arc<SecretText>),
    /// `Cookie:` and the text as it is: name and value of a session.
    Cookie(Arc<SecretText>),
    /// Nothing.
    None,
}

impl Auth {
    /// A bearer token with the value of `token`, which is copied.
    pub fn bearer(token: &SecretText) -> Self {
        Self::Bearer(Arc::new(SecretText::new(token.expose().to_owned())))
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth(…)")
    }
}

/// A base URL that no client takes.
#[derive(Debug, thiserror::Error)]
pub enum BadBase {
    /// Not a URL, or one that can't have a path.
    #[error("the {0} URL is not an http or https URL")]
    NotAUrl(&'static str),
    /// A credential would cross a network in the clear.
    #[error("the {0} URL is not https, and its host is neither loopback nor inside a private network")]
    InTheClear(&'static str),
    /// A URL with user, password, query or fragment.
    #[error("the {0} URL has a user, a password, a query or a fragment, which a base URL can't have")]
    TooMuch(&'static str),
    /// The system's TLS can't be set up.
    #[error("no TLS for {0} here: check the system's certificates")]
    NoTls(&'static str),
}

/// A client of one API with one credential. Clones share connections and rate limits.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    rules: Rules,
    auth: Arc<Auth>,
    manner: Manner,
    limits: Arc<Limits>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the API at `base`.
    ///
    /// # Errors
    /// [`BadBase`]: `http` is taken only for loopback, `*.internal` and addresses of private networks.
    pub fn new(rules: Rules, base: &str, auth: Auth, manner: Manner) -> Result<Self, BadBase> {
        let base = checked(rules.provider, base)?;
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("reseal/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(manner.timeout.min(Duration::from_secs(10)))
            .timeout(manner.timeout);
        if base.scheme() == "http" {
            // It never speaks TLS, so the system's certificates need not be read.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(|_| BadBase::NoTls(rules.provider))?;
        let limits = Arc::new(Limits::new(rules.paces, manner.times));
        Ok(Self { http, base, rules, auth: Arc::new(auth), manner, limits })
    }

    /// The same API, with another credential; rate limits stay shared.
    #[must_use]
    pub fn with_auth(&self, auth: Auth) -> Self {
        Self { auth: Arc::new(auth), ..self.clone() }
    }

    /// Where it is.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// A call that only reads. `name` finishes "could not …" in errors; `path` is a segment each, and is escaped.
    pub fn get(&self, name: &'static str, path: &[&str]) -> Call<'_> {
        self.call(name, Method::GET, path)
    }

    /// A `POST`.
    pub fn post(&self, name: &'static str, path: &[&str]) -> Call<'_> {
        self.call(name, Method::POST, path)
    }

    /// A `PUT`.
    pub fn put(&self, name: &'static str, path: &[&str]) -> Call<'_> {
        self.call(name, Method::PUT, path)
    }

    /// A `DELETE`.
    pub fn delete(&self, name: &'static str, path: &[&str]) -> Call<'_> {
        self.call(name, Method::DELETE, path)
    }

    fn call(&self, name: &'static str, method: Method, path: &[&str]) -> Call<'_> {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("a base URL is checked when it is taken").pop_if_empty().extend(path);
        let repeats = method == Method::GET;
        let request = self.http.request(method, url);
        let request = match &*self.auth {
            Auth::Bearer(token) => request.header(AUTHORIZATION, header(&["Bearer ", token.expose()])),
            Auth::Verbatim(token) => request.header(AUTHORIZATION, header(&[token.expose()])),
            Auth::Basic(user, password) => request.basic_auth(user, Some(password.expose())),
            Auth::Cookie(session) => request.header(COOKIE, header(&[session.expose()])),
            Auth::None => request,
        };
        Call { client: self, name, request, repeats, paced: None }
    }

    fn classify(&self, name: &'static str, reply: &Reply) -> Option<ProviderError> {
        let provider = self.rules.provider;
        let status = reply.status();
        // GitHub says so of its rate limits; who takes it for a refusal throws a good credential away.
        let is_limited = status == 403 && (reply.retry_after.is_some() || reply.mentions("rate limit"));
        if status == 429 || is_limited || self.rules.not_begun.contains(&status) {
            return Some(ProviderError::Busy {
                provider,
                call: name,
                why: format!("it answered {status}"),
                retry_after: reply.retry_after,
            });
        }
        let is_refusal = || reply.code().is_some_and(|code| self.rules.refusals.contains(&code.as_str()));
        ((500..600).contains(&status) && !is_refusal()).then(|| ProviderError::Uncertain {
            provider,
            call: name,
            why: format!("it answered {status}"),
        })
    }
}

/// The header's value, which the client's own logs never show.
fn header(parts: &[&str]) -> HeaderValue {
    let text = Zeroizing::new(parts.concat());
    // A credential with a line break is refused by the server as any wrong one is.
    let mut value = HeaderValue::from_str(text.trim()).unwrap_or_else(|_| HeaderValue::from_static("-"));
    value.set_sensitive(true);
    value
}

fn checked(provider: &'static str, base: &str) -> Result<Url, BadBase> {
    let url: Url = base.parse().map_err(|_| BadBase::NotAUrl(provider))?;
    let has_more = !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some();
    match url.scheme() {
        "http" | "https" if has_more => Err(BadBase::TooMuch(provider)),
        "https" => Ok(url),
        "http" if is_near(&url) => Ok(url),
        "http" => Err(BadBase::InTheClear(provider)),
        _ => Err(BadBase::NotAUrl(provider)),
    }
}

fn is_near(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_private(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback() || ip.is_unique_local(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".internal"),
        None => false,
    }
}

/// A call that is being put together.
#[must_use = "a call is made by `send` or `reply`"]
pub struct Call<'a> {
    client: &'a Client,
    name: &'static str,
    request: reqwest::RequestBuilder,
    repeats: bool,
    paced: Option<(&'static str, String)>,
}

impl Call<'_> {
    /// Adds parameters to the URL.
    pub fn query(mut self, query: &(impl Serialize + ?Sized)) -> Self {
        self.request = self.request.query(query);
        self
    }

    /// Adds a header, which holds no secret.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// Sends JSON.
    pub fn json(mut self, body: &(impl Serialize + ?Sized)) -> Self {
        self.request = self.request.json(body);
        self
    }

    /// Sends a form.
    pub fn form(mut self, body: &(impl Serialize + ?Sized)) -> Self {
        self.request = self.request.form(body);
        self
    }

    /// Sends these bytes.
    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.request = self.request.body(body);
        self
    }

    /// Says that doing it twice is as good as doing it once.
    pub fn repeatable(mut self) -> Self {
        self.repeats = true;
        self
    }

    /// Waits for its turn in this class of the provider's rate limits, among calls with the same key.
    pub fn paced(mut self, class: &'static str, key: impl Into<String>) -> Self {
        self.paced = Some((class, key.into()));
        self
    }

    /// The reply, when it is a success.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn send(self) -> Result<Reply, ProviderError> {
        self.reply().await?.success()
    }

    /// The reply, whatever its status below 500 but 429 and what the provider answers before it begins; of the others,
    /// those with a code of [`Rules::refusals`].
    ///
    /// # Errors
    /// Only those that are transient: nothing was done, or nobody knows.
    pub async fn reply(self) -> Result<Reply, ProviderError> {
        let manner = self.client.manner;
        let pauses = ExponentialBuilder::default()
            .with_min_delay(manner.pause)
            .with_max_delay(Duration::from_secs(20))
            .with_max_times(manner.tries.saturating_sub(1))
            .with_jitter();
        let repeats = self.repeats;
        let may_repeat = |error: &ProviderError| {
            matches!(error, ProviderError::Busy { .. })
                || repeats && matches!(error, ProviderError::Uncertain { .. })
        };
        (async || self.once().await)
            .retry(pauses)
            .when(|failed| may_repeat(&failed.error))
            .adjust(|failed, pause| {
                let asked = failed.retry_after.unwrap_or_default();
                pause.map(|pause| pause.max(asked).min(LONGEST_PAUSE))
            })
            .await
            .map_err(|failed| failed.error)
    }

    async fn once(&self) -> Result<Reply, Failed> {
        if let Some((class, key)) = self.paced.as_ref().filter(|_| self.client.manner.paced) {
            self.client.limits.turn(class, key).await;
        }
        let request = self.request.try_clone().expect("bodies are bytes, which can be cloned");
        let response = request.send().await.map_err(|error| self.lost(&error))?;
        let reply = match Reply::read(self.client.rules, self.name, response).await {
            Ok(reply) => reply,
            Err(Unread::Lost(error)) => return Err(self.lost(&error).into()),
            Err(Unread::TooLong) => return Err(self.unexpected("it is too long").into()),
        };
        let retry_after = reply.retry_after;
        match self.client.classify(self.name, &reply) {
            Some(error) => Err(Failed { error, retry_after }),
            None => Ok(reply),
        }
    }

    /// What a failure below HTTP says: before the request was sent nothing was done, afterwards nobody knows.
    fn lost(&self, error: &reqwest::Error) -> ProviderError {
        let (provider, call) = (self.client.rules.provider, self.name);
        if error.is_connect() || error.is_builder() {
            let why = "it was not reached".to_owned();
            return ProviderError::Busy { provider, call, why, retry_after: None };
        }
        let why = if error.is_timeout() { "time-out" } else { "connection lost" };
        ProviderError::Uncertain { provider, call, why: why.to_owned() }
    }

    fn unexpected(&self, what: &'static str) -> ProviderError {
        ProviderError::Unexpected { provider: self.client.rules.provider, call: self.name, what }
    }
}

/// A call that failed, and how long its provider asked to be left alone, whatever it said besides.
struct Failed {
    error: ProviderError,
    retry_after: Option<Duration>,
}

impl From<ProviderError> for Failed {
    fn from(error: ProviderError) -> Self {
        Self { error, retry_after: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_does_not_cross_a_network_in_the_clear() {
        let ok = [
            "https://api.fly.io/graphql",
            "http://127.0.0.1:9/v1/",
            "http://_api.internal:4280/v1",
            "http://[::1]:80",
        ];
        ok.iter().for_each(|base| drop(checked("x", base).expect("taken")));
        assert!(matches!(checked("x", "http://api.fly.io"), Err(BadBase::InTheClear("x"))));
        assert!(matches!(checked("x", "https://user:pw@host"), Err(BadBase::TooMuch("x"))));
        assert!(matches!(checked("x", "https://host/?a=b"), Err(BadBase::TooMuch("x"))));
        assert!(matches!(checked("x", "ftp://host"), Err(BadBase::NotAUrl("x"))));
        assert!(matches!(checked("x", "host"), Err(BadBase::NotAUrl("x"))));
    }
}
