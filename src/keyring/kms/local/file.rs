//! The keyring file: JSON, mode 0600, replaced as a whole.
//!
//! ```json
//! {
//!   "format": "reseal local-kms 1",
//!   "id": "6f2e8a4c-0d51-4f3b-9a77-2b1c5e9d8f10",
//!   "keys": [
//!     { "version": 1, "key": "<64 hex digits>" },
//!     { "version": 2, "key": "<64 hex digits>" }
//!   ]
//! }
//! ```
//!
//! Versions ascend. None is ever removed or changed here: what was wrapped under a version that is lost, is lost.
//!
//! Writers take the lock (`flock`) of the directory, write `.NAME.new` beside the file, make it durable, and
//! rename it. A writer that dies leaves the file as it was, and at most a `.NAME.new`, also mode 0600, that no
//! one reads and the next writer removes.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use rand::rngs::SysError;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tempfile::NamedTempFile;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    keyring::private_file::{self, PrivateFileError},
    secret::{KEY_LEN, StaticKey},
};

/// The longest keyring file, in bytes: room for over two thousand versions.
const FILE_LIMIT: usize = 256 * 1024;

const FORMAT: &str = "reseal local-kms 1";

/// Why a keyring file was not opened, made or changed. The file is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The file was not read.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// It is not the JSON of a keyring: cut off, edited, or something else.
    #[error("{} is not a local-kms keyring (line {line}, column {column})", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where reading it failed, counted from 1.
        line: usize,
        /// Where in the line, in bytes.
        column: usize,
    },
    /// It is the JSON of a keyring and breaks one of its rules.
    #[error("{} is not a local-kms keyring: {rule}", path.display())]
    Illegal {
        /// The file.
        path: PathBuf,
        /// The rule.
        rule: &'static str,
    },
    /// There is a file already.
    #[error("{} exists, and a keyring is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file can't hold another version.
    #[error("{} is full", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot write {}: {cause}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// The operating system has no randomness to give.
    #[error("cannot make a key: {0}")]
    NoRandomness(#[from] SysError),
}

/// The content of a keyring file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyringFile {
    format: String,
    #[serde(with = "uuid_text")]
    pub(super) id: Uuid,
    /// Ascending by version, at least one.
    pub(super) keys: Vec<KeyVersion>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyVersion {
    pub(super) version: u32,
    #[serde(with = "key_text")]
    pub(super) key: StaticKey,
}

impl KeyringFile {
    pub(super) fn create(path: &Path) -> Result<Self, KeyringError> {
        let unwritable = |cause| KeyringError::Unwritable { path: path.into(), cause };
        let first = KeyVersion { version: 1, key: StaticKey::generate()? };
        let keyring = Self { format: FORMAT.to_owned(), id: Uuid::new_v4(), keys: vec![first] };
        let directory = lock_directory(path).map_err(unwritable)?;
        let staged = stage(path, &keyring.to_json()).map_err(unwritable)?;
        staged.persist_noclobber(path).map_err(|refused| match refused.error.kind() {
            io::ErrorKind::AlreadyExists => KeyringError::Exists { path: path.into() },
            _ => unwritable(refused.error),
        })?;
        directory.sync_all().map_err(unwritable)?;
        Ok(keyring)
    }

    pub(super) fn rotate(path: &Path) -> Result<Self, KeyringError> {
        let unwritable = |cause| KeyringError::Unwritable { path: path.into(), cause };
        // The file itself is replaced, never a link to it.
        let target = fs::canonicalize(path).map_err(unwritable)?;
        let directory = lock_directory(&target).map_err(unwritable)?;
        // Read under the lock: else two writers would add the same version, with two keys.
        let mut keyring = Self::read(&target)?;
        let full = || KeyringError::Full { path: path.into() };
        let newest = keyring.keys.last().map_or(0, |key| key.version);
        let version = newest.checked_add(1).ok_or_else(full)?;
        keyring.keys.push(KeyVersion { version, key: StaticKey::generate()? });
        let json = keyring.to_json();
        if json.len() > FILE_LIMIT {
            return Err(full());
        }
        let staged = stage(&target, &json).map_err(unwritable)?;
        staged.persist(&target).map_err(|refused| unwritable(refused.error))?;
        directory.sync_all().map_err(unwritable)?;
        Ok(keyring)
    }

    pub(super) fn read(path: &Path) -> Result<Self, KeyringError> {
        let illegal = |rule| KeyringError::Illegal { path: path.into(), rule };
        let content = private_file::read(path, FILE_LIMIT)?;
        // Of serde's error only the place is kept: its text may quote the file.
        let keyring: Self = serde_json::from_slice(&content).map_err(|error| KeyringError::Malformed {
            path: path.into(),
            line: error.line(),
            column: error.column(),
        })?;
        if keyring.format != FORMAT {
            return Err(illegal("its format is not \"reseal local-kms 1\""));
        }
        if keyring.keys.is_empty() {
            return Err(illegal("it has no key"));
        }
        if !keyring.keys.is_sorted_by(|earlier, later| earlier.version < later.version) {
            return Err(illegal("its versions do not ascend"));
        }
        Ok(keyring)
    }

    fn to_json(&self) -> Zeroizing<Vec<u8>> {
        // Reserved whole, 128 bytes for an entry: a buffer that grows leaves copies behind.
        let mut json = Zeroizing::new(Vec::with_capacity(256 + 128 * self.keys.len()));
        serde_json::to_writer_pretty(&mut *json, self).expect("strings and integers have a JSON form");
        json.push(b'\n');
        json
    }
}

mod uuid_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
        Uuid::parse_str(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A key as 64 hex digits. No copy of them is made, as long as the JSON does not escape them.
mod key_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(key: &StaticKey, serializer: S) -> Result<S::Ok, S::Error> {
        let mut digits = Zeroizing::new([0; 2 * KEY_LEN]);
        hex::encode_to_slice(key.expose(), digits.as_mut_slice()).expect("two digits for each byte");
        serializer.serialize_str(std::str::from_utf8(digits.as_slice()).expect("hex digits are ASCII"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StaticKey, D::Error> {
        deserializer.deserialize_str(Digits)
    }

    struct Digits;

    impl de::Visitor<'_> for Digits {
        type Value = StaticKey;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("64 hex digits")
        }

        fn visit_str<E: de::Error>(self, digits: &str) -> Result<StaticKey, E> {
            StaticKey::try_filled(|key| hex::decode_to_slice(digits, key))
                .map_err(|_| E::custom("not 64 hex digits"))
        }
    }
}

/// The directory of `path`, locked against other writers until it is dropped.
fn lock_directory(path: &Path) -> io::Result<File> {
    let directory = File::open(directory_of(path))?;
    directory.lock()?;
    Ok(directory)
}

/// Writes `content` to `.NAME.new` beside `path`, mode 0600 and durable. The caller holds the lock.
fn stage(path: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let directory = directory_of(path);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let staged: OsString = [".".as_ref(), name, ".new".as_ref()].into_iter().collect();
    match fs::remove_file(directory.join(&staged)) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let mut file =
        tempfile::Builder::new().prefix(&staged).suffix("").rand_bytes(0).tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
