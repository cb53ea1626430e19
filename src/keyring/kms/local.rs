//! A key management service in a file, for drills and single machines.
//!
//! The keyring file (see [`file`](self::file)) holds one or more key versions: the newest wraps, all unwrap. Who
//! reads the file has every key that was ever wrapped under it: it is only as safe as the machine.
//!
//! A wrapped key is 84 bytes, integers big-endian:
//!
//! ```text
//! "RLK1" ‖ keyring id[16] ‖ key version:u32 ‖ nonce[12] ‖ ct[32] ‖ tag[16]
//! AES-256-GCM(key of that version, random nonce, data key,
//!             AAD = "RLK1" ‖ keyring id ‖ key version ‖ lp(k₁) ‖ lp(v₁) ‖ lp(k₂) ‖ …)
//! ```
//!
//! where `(k, v)` are the pairs of the encryption context in ascending byte order of `k`, and `lp(x)` is the u32
//! length of `x`, then its UTF-8 bytes. Random 96-bit nonces set the limit of 2^32 wrapped keys for one version
//! (NIST SP 800-38D §8.3); [`rotate`](LocalKms::rotate) before.

mod file;

use std::{
    fmt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use aes_gcm::{Aes256Gcm, KeyInit, Nonce, aead::AeadInOut};
use async_trait::async_trait;
use rand::{TryRng, rngs::SysRng};
use uuid::Uuid;

pub use self::file::KeyringError;
use self::file::KeyringFile;
use super::{Context, GeneratedKey, Kms, KmsError, Locality, Material};
use crate::secret::{DataKey, KEY_LEN};

const MAGIC: &[u8; 4] = b"RLK1";
const HEADER_LEN: usize = MAGIC.len() + 16 + 4;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
const WRAPPED_LEN: usize = HEADER_LEN + NONCE_LEN + KEY_LEN + TAG_LEN;

const GENERATE: &str = "GenerateDataKey";
const DECRYPT: &str = "Decrypt";
const RE_ENCRYPT: &str = "ReEncrypt";

/// A keyring, as its file was when it was opened. Ready to use: the keys are expanded.
pub struct LocalKms {
    id: Uuid,
    name: String,
    /// Ascending, at least one; the last one wraps.
    versions: Vec<(u32, Aes256Gcm)>,
    calls: AtomicU64,
}

impl LocalKms {
    /// Makes a keyring with one key at `path`, mode 0600. Never replaces a file.
    ///
    /// # Crash safety
    /// The file appears under its name whole and durable, or not at all.
    pub fn create(path: &Path) -> Result<Self, KeyringError> {
        KeyringFile::create(path).map(Self::from)
    }

    /// Opens the keyring at `path`, which must be closed to all but its owner.
    pub fn open(path: &Path) -> Result<Self, KeyringError> {
        KeyringFile::read(path).map(Self::from)
    }

    /// Adds a key version to the keyring at `path`, and opens it. From then on that version wraps; a process that
    /// opened the keyring before can't unwrap what it wraps, and has to open it again.
    ///
    /// # Crash safety
    /// The file is replaced in one step, by one that is durable: it is the old one or the new one, whole. A new
    /// version is not used before it is on disk. Two processes that rotate at once add two versions.
    pub fn rotate(path: &Path) -> Result<Self, KeyringError> {
        KeyringFile::rotate(path).map(Self::from)
    }

    fn count(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Wraps `key` under the newest version.
    fn wrap(&self, operation: &'static str, key: &DataKey, context: &Context) -> Result<Vec<u8>, KmsError> {
        let (version, cipher) = self.newest();
        let mut nonce = [0; NONCE_LEN];
        SysRng.try_fill_bytes(&mut nonce).map_err(|_| no_randomness(operation))?;

        let header = self.header(*version);
        let mut wrapped = Vec::with_capacity(WRAPPED_LEN);
        wrapped.extend_from_slice(&header);
        wrapped.extend_from_slice(&nonce);
        wrapped.extend_from_slice(key.expose());
        let tag = cipher
            .encrypt_inout_detached(
                &Nonce::from(nonce),
                &associated_data(&header, context),
                wrapped[HEADER_LEN + NONCE_LEN..].as_mut().into(),
            )
            .expect("32 bytes are within the limit of GCM");
        wrapped.extend_from_slice(&tag);
        Ok(wrapped)
    }

    fn newest(&self) -> &(u32, Aes256Gcm) {
        self.versions.last().expect("a keyring that was read has a version")
    }

    fn header(&self, version: u32) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[..4].copy_from_slice(MAGIC);
        header[4..20].copy_from_slice(self.id.as_bytes());
        header[20..].copy_from_slice(&version.to_be_bytes());
        header
    }
}

impl From<KeyringFile> for LocalKms {
    fn from(file: KeyringFile) -> Self {
        let expand = |key: &[u8; KEY_LEN]| Aes256Gcm::new(key.into());
        Self {
            id: file.id,
            name: format!("local-kms:{}", file.id),
            versions: file.keys.iter().map(|key| (key.version, expand(key.key.expose()))).collect(),
            calls: AtomicU64::new(0),
        }
    }
}

impl fmt::Debug for LocalKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalKms({}, {} versions)", self.id, self.versions.len())
    }
}

#[async_trait]
impl Kms for LocalKms {
    fn key_name(&self) -> &str {
        &self.name
    }

    fn locality(&self) -> Locality {
        Locality::Local
    }

    async fn generate_data_key(&self, context: &Context) -> Result<GeneratedKey, KmsError> {
        self.count();
        let key = DataKey::generate().map_err(|_| no_randomness(GENERATE))?;
        let wrapped = self.wrap(GENERATE, &key, context)?;
        Ok(GeneratedKey { key, wrapped })
    }

    async fn decrypt(&self, wrapped: &[u8], context: &Context) -> Result<DataKey, KmsError> {
        self.count();
        let refused = |code: &str| KmsError::Blob { operation: DECRYPT, code: code.to_owned() };
        let wrapped: &[u8; WRAPPED_LEN] =
            wrapped.try_into().map_err(|_| refused("not a key wrapped by a local keyring"))?;
        let (header, rest) = wrapped.split_at(HEADER_LEN);
        let (nonce, rest) = rest.split_at(NONCE_LEN);
        let (ciphertext, tag) = rest.split_at(KEY_LEN);

        let version = u32::from_be_bytes(header[20..].try_into().expect("a header ends with 4 bytes"));
        if header[..4] != MAGIC[..] {
            return Err(refused("not a key wrapped by a local keyring"));
        }
        if header != self.header(version) {
            return Err(refused("wrapped by another keyring"));
        }
        let Ok(index) = self.versions.binary_search_by_key(&version, |(version, _)| *version) else {
            // Of the key, not of these bytes: a rotation after this keyring was opened, or an old copy of the file.
            let code = format!("the keyring has no version {version}");
            return Err(KmsError::Key { operation: DECRYPT, key: self.name.clone(), code });
        };
        let (_, cipher) = &self.versions[index];
        let context = associated_data(header, context);
        DataKey::try_filled(|key| {
            key.copy_from_slice(ciphertext);
            cipher.decrypt_inout_detached(
                nonce.try_into().expect("split to the length of a nonce"),
                &context,
                key.as_mut_slice().into(),
                tag.try_into().expect("what is left is the tag"),
            )
        })
        .map_err(|_| refused("changed, or wrapped with another context"))
    }

    async fn re_encrypt(
        &self,
        wrapped: &[u8],
        context: &Context,
        source: &dyn Kms,
    ) -> Result<Vec<u8>, KmsError> {
        let key = source.decrypt(wrapped, context).await?;
        self.count();
        self.wrap(RE_ENCRYPT, &key, context)
    }

    async fn material(&self, wrapped: &[u8], _: &Context) -> Result<Option<Material>, KmsError> {
        let is_newest = wrapped.starts_with(&self.header(self.newest().0));
        Ok(Some(if is_newest { Material::Current } else { Material::Stale }))
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

fn no_randomness(operation: &'static str) -> KmsError {
    KmsError::Service { operation, code: "no randomness".to_owned() }
}

fn associated_data(header: &[u8], context: &Context) -> Vec<u8> {
    let mut bytes = header.to_vec();
    for text in context.iter().flat_map(|(key, value)| [key, value]) {
        let len = u32::try_from(text.len()).expect("a context is names and ids, not gigabytes");
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}
