//! Opening a value of unknown format (`docs/formats.md`): structure first, authentication last.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use super::kms::{Context, Kms, KmsError, Locality};
use crate::{
    envelope::{
        Format, KeyId, Shape, StaticId,
        v1::StaticCipher,
        v2::RowCipher,
        v3::{BoundKey, ColumnCipher},
    },
    secret::Plaintext,
};

/// Why a cell is put into quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No structure fits.
    Malformed,
    /// The structure fits, and no key opens it.
    Unopened,
    /// The key is known and its tag fails: changed, or moved from another cell.
    Tampered,
    /// v3, under a data key that the registry does not have.
    UnknownKey,
    /// The KMS refuses this one value's key, and opens others.
    KeyUnavailable,
    /// A URL in the clear.
    Plaintext,
    /// Above the size limit.
    TooLarge,
}

impl Reason {
    /// The reason's name, as stored and as shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unopened => "unopened",
            Self::Tampered => "tampered",
            Self::UnknownKey => "unknown-key",
            Self::KeyUnavailable => "key-unavailable",
            Self::Plaintext => "plaintext",
            Self::TooLarge => "too-large",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The key that opened a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OriginKey {
    /// A static key.
    Static(StaticId),
    /// A KMS key, by its resolved name.
    Kms(Arc<str>),
    /// A data key of the registry.
    Data(KeyId),
    /// None: the value was a URL in the clear, and that was allowed.
    Clear,
}

/// How a value was stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// Its format; [`Format::V1`] for a URL in the clear.
    pub format: Format,
    /// The key that opened it.
    pub key: OriginKey,
}

/// What came of opening a value with what is at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// It is open, and authentic under this key.
    Opened(Origin),
    /// It can't be opened.
    Refused(Reason),
    /// It has the form of v2 and no key at hand opens it otherwise: unwrap its data key and go on with
    /// [`Opener::open_unwrapped`].
    Wrapped,
}

/// What a KMS made of a v2 value's data key.
pub enum Unwrapped {
    /// The data key, ready to open with, and the name of the KMS key that unwrapped it.
    Key(Box<RowCipher>, Arc<str>),
    /// No configured KMS key wrapped these bytes.
    NotOurs,
    /// The KMS refuses this one, while it unwraps others under the same key.
    Unavailable,
}

/// Whether a URL in the clear is taken for a value to seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClearText {
    /// Such a value goes to quarantine.
    #[default]
    Quarantine,
    /// Such a value is sealed.
    Seal,
}

/// Every key that a target's values may be under.
pub struct Opener {
    columns: Vec<String>,
    table: String,
    statics: Vec<Arc<StaticCipher>>,
    kms: Vec<Arc<dyn Kms>>,
    data_keys: HashMap<KeyId, Vec<ColumnCipher>>,
    unavailable: HashSet<KeyId>,
    clear_text: ClearText,
    /// Of each KMS key, wrapped bytes that it unwrapped before: what tells a bad value from a bad key.
    canaries: Mutex<HashMap<usize, Vec<u8>>>,
}

impl Opener {
    /// No keys yet, for the columns of the target with this logical name.
    pub fn new(table: impl Into<String>, columns: impl IntoIterator<Item = String>) -> Self {
        Self {
            columns: columns.into_iter().collect(),
            table: table.into(),
            statics: Vec::new(),
            kms: Vec::new(),
            data_keys: HashMap::new(),
            unavailable: HashSet::new(),
            clear_text: ClearText::default(),
            canaries: Mutex::default(),
        }
    }

    /// Opens v1 values under this key too.
    pub fn add_static(&mut self, cipher: Arc<StaticCipher>) {
        if self.statics.iter().all(|known| known.id() != cipher.id()) {
            self.statics.push(cipher);
        }
    }

    /// Opens v2 values under this key too. Local keys are asked before remote ones.
    pub fn add_kms(&mut self, kms: Arc<dyn Kms>) {
        if self.kms.iter().any(|known| known.key_name() == kms.key_name()) {
            return;
        }
        self.kms.push(kms);
        self.kms.sort_by_key(|kms| kms.locality() == Locality::Remote);
    }

    /// Opens v3 values under this key too.
    pub fn add_data_key(&mut self, key: &BoundKey) {
        let ciphers = self.columns.iter().map(|column| key.for_column(&self.table, column)).collect();
        self.data_keys.insert(key.key_id(), ciphers);
    }

    /// Knows this data key by name only: its values are [`Reason::KeyUnavailable`], not [`Reason::UnknownKey`].
    pub fn add_unavailable(&mut self, key_id: KeyId) {
        self.unavailable.insert(key_id);
    }

    /// What to make of a URL in the clear.
    pub fn set_clear_text(&mut self, clear_text: ClearText) {
        self.clear_text = clear_text;
    }

    /// The static keys, expanded.
    pub fn statics(&self) -> &[Arc<StaticCipher>] {
        &self.statics
    }

    /// The KMS keys, local ones first.
    pub fn kms(&self) -> &[Arc<dyn Kms>] {
        &self.kms
    }

    /// Opens `value`, found in `row` of the target's `column`, with the keys at hand; no KMS is asked.
    ///
    /// `out` holds the plaintext after [`Attempt::Opened`], and nothing otherwise.
    pub fn attempt(&self, column: usize, row: &str, value: &[u8], out: &mut Plaintext) -> Attempt {
        let shape = Shape::of(value);
        if let Some(key_id) = shape.v3 {
            if let Some(ciphers) = self.data_keys.get(&key_id) {
                return match ciphers[column].open_into(row, value, out) {
                    Ok(()) => Attempt::Opened(Origin { format: Format::V3, key: OriginKey::Data(key_id) }),
                    Err(_) => Attempt::Refused(Reason::Tampered),
                };
            }
            if self.unavailable.contains(&key_id) {
                return Attempt::Refused(Reason::KeyUnavailable);
            }
        }
        if shape.v1 {
            for cipher in &self.statics {
                if cipher.open_into(value, out).is_ok() {
                    return Attempt::Opened(Origin {
                        format: Format::V1,
                        key: OriginKey::Static(cipher.id()),
                    });
                }
            }
        }
        if shape.v2.is_some() && !self.kms.is_empty() {
            return Attempt::Wrapped;
        }
        self.refuse(&shape, value, out, Reason::Unopened)
    }

    /// Opens `value` with every key there is, asking the KMS where need be.
    ///
    /// # Errors
    /// Those of [`unwrap`](Self::unwrap).
    pub async fn open(
        &self,
        column: usize,
        row: &str,
        value: &[u8],
        out: &mut Plaintext,
    ) -> Result<Attempt, KmsError> {
        let attempt = self.attempt(column, row, value, out);
        match (&attempt, Shape::of(value).v2) {
            (Attempt::Wrapped, Some(wrapped)) => {
                let unwrapped = self.unwrap(wrapped.encrypted_dek).await?;
                Ok(self.open_unwrapped(value, &unwrapped, out))
            }
            _ => Ok(attempt),
        }
    }

    /// Goes on with a value of v2's form once its data key was unwrapped.
    pub fn open_unwrapped(&self, value: &[u8], unwrapped: &Unwrapped, out: &mut Plaintext) -> Attempt {
        let shape = Shape::of(value);
        let otherwise = match (unwrapped, &shape.v2) {
            (Unwrapped::Key(cipher, kms), Some(wrapped)) => {
                if cipher.open_into(wrapped, out).is_ok() {
                    return Attempt::Opened(Origin {
                        format: Format::V2,
                        key: OriginKey::Kms(Arc::clone(kms)),
                    });
                }
                Reason::Tampered
            }
            (Unwrapped::Unavailable, _) => Reason::KeyUnavailable,
            _ => Reason::Unopened,
        };
        self.refuse(&shape, value, out, otherwise)
    }

    /// The verdict on a value that no key opens, `otherwise` when its structure says no more.
    fn refuse(&self, shape: &Shape<'_>, value: &[u8], out: &mut Plaintext, otherwise: Reason) -> Attempt {
        out.clear();
        Attempt::Refused(match () {
            () if looks_like_url(value) => return self.clear(value, out),
            () if shape.v3.is_some() => Reason::UnknownKey,
            () if !shape.v1 => Reason::Malformed,
            () => otherwise,
        })
    }

    /// What a stored value that is not even base64 can be: a URL in the clear, or nothing known.
    pub fn attempt_undecodable(&self, stored: &[u8], out: &mut Plaintext) -> Attempt {
        out.clear();
        if looks_like_url(stored) { self.clear(stored, out) } else { Attempt::Refused(Reason::Malformed) }
    }

    fn clear(&self, value: &[u8], out: &mut Plaintext) -> Attempt {
        match self.clear_text {
            ClearText::Quarantine => Attempt::Refused(Reason::Plaintext),
            ClearText::Seal => {
                out.expose_mut().reserve(value.len());
                out.expose_mut().extend_from_slice(value);
                Attempt::Opened(Origin { format: Format::V1, key: OriginKey::Clear })
            }
        }
    }

    /// Asks each KMS key, local ones first, for the data key of a v2 value.
    ///
    /// # Errors
    /// Trouble that is no verdict on this value: a service that does not answer, or a key that can't be used at all.
    pub async fn unwrap(&self, encrypted_dek: &[u8]) -> Result<Unwrapped, KmsError> {
        let mut unavailable = false;
        for (position, kms) in self.kms.iter().enumerate() {
            match kms.decrypt(encrypted_dek, &Context::new()).await {
                Ok(key) => {
                    self.canaries().entry(position).or_insert_with(|| encrypted_dek.to_owned());
                    return Ok(Unwrapped::Key(Box::new(RowCipher::new(&key)), kms.key_name().into()));
                }
                Err(KmsError::Blob { .. }) => {}
                Err(error @ KmsError::Key { .. }) => {
                    self.require_alive(position, error).await?;
                    unavailable = true;
                }
                Err(error @ KmsError::Service { .. }) => return Err(error),
            }
        }
        Ok(if unavailable { Unwrapped::Unavailable } else { Unwrapped::NotOurs })
    }

    /// Gives `error` back unless the KMS key still unwraps something else: then the trouble is with one value alone.
    async fn require_alive(&self, position: usize, error: KmsError) -> Result<(), KmsError> {
        let kms = &self.kms[position];
        let known = self.canaries().get(&position).cloned();
        let canary = match known {
            Some(canary) => canary,
            None => kms.generate_data_key(&Context::new()).await.map_err(|_| error.clone())?.wrapped,
        };
        kms.decrypt(&canary, &Context::new()).await.map_err(|_| error)?;
        self.canaries().insert(position, canary);
        Ok(())
    }

    fn canaries(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Vec<u8>>> {
        self.canaries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("table", &self.table)
            .field("statics", &self.statics.iter().map(|cipher| cipher.id()).collect::<Vec<_>>())
            .field("kms", &self.kms)
            .field("data_keys", &self.data_keys.keys())
            .finish_non_exhaustive()
    }
}

/// Whether the bytes begin as a URL does, `scheme://`, and are text (RFC 3986, section 3.1). Cheap: asked of each
/// value.
pub fn looks_like_url(bytes: &[u8]) -> bool {
    let Some(colon) = bytes.iter().take(32).position(|&byte| byte == b':') else { return false };
    bytes[colon..].starts_with(b"://")
        && bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes[..colon].iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
        && std::str::from_utf8(bytes).is_ok()
}
