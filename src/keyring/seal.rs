//! Sealing under the new key, with proof: what is to be stored is opened again, and compared, before it may be.

use std::{fmt, sync::Arc};

use super::{
    kms::{Context, Kms, KmsError},
    open::{Origin, OriginKey},
};
use crate::{
    envelope::{
        Format, KeyId,
        v1::StaticCipher,
        v2::{RowCipher, Wrapped},
        v3::{BoundKey, ColumnCipher},
    },
    secret::Plaintext,
};

/// A value that was just sealed does not open to what was sealed, or a data key that was just wrapped does not unwrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value that was just sealed does not open again: nothing was written")]
pub struct ProofFailed;

/// A data key for v2 values, proven to unwrap from the bytes that will be stored.
pub struct RowKeys {
    cipher: RowCipher,
    encrypted_dek: Vec<u8>,
}

impl RowKeys {
    /// Puts `value`, which opened to `plaintext` under this data key wrapped otherwise, behind the key as it is wrapped
    /// now; opens that into `check`, and compares.
    ///
    /// # Errors
    /// [`ProofFailed`]; `out` is then not to be stored.
    pub fn carry(
        &self,
        value: &[u8],
        plaintext: &Plaintext,
        out: &mut Vec<u8>,
        check: &mut Plaintext,
    ) -> Result<(), ProofFailed> {
        let old = Wrapped::parse(value).ok_or(ProofFailed)?;
        old.rewrapped_into(&self.encrypted_dek, out).map_err(|_| ProofFailed)?;
        let new = Wrapped::parse(out).ok_or(ProofFailed)?;
        self.cipher.open_into(&new, check).map_err(|_| ProofFailed)?;
        if plaintext.expose() == check.expose() { Ok(()) } else { Err(ProofFailed) }
    }
}

/// Seals the values of one target under the new key.
pub enum Sealer {
    /// v1, under a static key.
    Static(Arc<StaticCipher>),
    /// v2, under data keys of a KMS key.
    Wrapped(Arc<dyn Kms>),
    /// v3, under a data key of the registry: its id, and a cipher for each column.
    Bound(KeyId, Vec<ColumnCipher>),
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({:?})", self.key())
    }
}

impl Sealer {
    /// Seals v3 values of the target with this logical name and these columns.
    pub fn bound<'a>(key: &BoundKey, table: &str, columns: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Bound(key.key_id(), columns.into_iter().map(|column| key.for_column(table, column)).collect())
    }

    /// The format it writes.
    pub fn format(&self) -> Format {
        match self {
            Self::Static(_) => Format::V1,
            Self::Wrapped(..) => Format::V2,
            Self::Bound(..) => Format::V3,
        }
    }

    /// Whether a value of this origin is where it is to end.
    pub fn is_current(&self, origin: &Origin) -> bool {
        origin.format == self.format() && origin.key == self.key()
    }

    fn key(&self) -> OriginKey {
        match self {
            Self::Static(cipher) => OriginKey::Static(cipher.id()),
            Self::Wrapped(kms) => OriginKey::Kms(kms.key_name().into()),
            Self::Bound(key_id, _) => OriginKey::Data(*key_id),
        }
    }

    /// What every value that it writes begins with, where that tells its key.
    pub fn header(&self) -> Option<Vec<u8>> {
        match self {
            Self::Bound(key_id, _) => Some([&[0x03], key_id.as_bytes().as_slice()].concat()),
            Self::Static(_) | Self::Wrapped(_) => None,
        }
    }

    /// Makes a data key for v2 values, unwraps it again from its wrapped bytes, and compares the two.
    ///
    /// `None` for a sealer whose key is at hand. One call generates, one unwraps.
    ///
    /// # Errors
    /// The KMS's; [`KmsError::Blob`] when what it generated does not unwrap to the same key.
    pub async fn row_keys(&self) -> Result<Option<RowKeys>, KmsError> {
        let Self::Wrapped(kms) = self else { return Ok(None) };
        let generated = kms.generate_data_key(&Context::new()).await?;
        let unwrapped = kms.decrypt(&generated.wrapped, &Context::new()).await?;
        if unwrapped != generated.key {
            return Err(KmsError::Blob { operation: "Decrypt", code: "OtherKey".to_owned() });
        }
        Ok(Some(RowKeys { cipher: RowCipher::new(&unwrapped), encrypted_dek: generated.wrapped }))
    }

    /// Wraps under this sealer's KMS key the v2 data key that `encrypted_dek` unwraps to under `source`, and unwraps it
    /// again from the new bytes.
    ///
    /// `None` for a sealer of another format. One call wraps anew, one unwraps.
    ///
    /// # Errors
    /// The KMS's.
    pub async fn rewrap(&self, encrypted_dek: &[u8], source: &dyn Kms) -> Result<Option<RowKeys>, KmsError> {
        let Self::Wrapped(kms) = self else { return Ok(None) };
        let encrypted_dek = kms.re_encrypt(encrypted_dek, &Context::new(), source).await?;
        let key = kms.decrypt(&encrypted_dek, &Context::new()).await?;
        Ok(Some(RowKeys { cipher: RowCipher::new(&key), encrypted_dek }))
    }

    /// Seals `plaintext` for `row` of `column` into `out`, opens it again into `check`, and compares.
    ///
    /// `row_keys` is what [`row_keys`](Self::row_keys) gave, for v2.
    ///
    /// # Errors
    /// [`ProofFailed`]; `out` is then not to be stored.
    pub fn seal(
        &self,
        column: usize,
        row: &str,
        row_keys: Option<&RowKeys>,
        plaintext: &Plaintext,
        out: &mut Vec<u8>,
        check: &mut Plaintext,
    ) -> Result<(), ProofFailed> {
        match (self, row_keys) {
            (Self::Static(cipher), _) => {
                cipher.seal_into(plaintext.expose(), out);
                cipher.open_into(out, check).map_err(|_| ProofFailed)?;
            }
            (Self::Wrapped(..), Some(keys)) => {
                keys.cipher
                    .seal_into(&keys.encrypted_dek, plaintext.expose(), out)
                    .map_err(|_| ProofFailed)?;
                let wrapped = Wrapped::parse(out).ok_or(ProofFailed)?;
                keys.cipher.open_into(&wrapped, check).map_err(|_| ProofFailed)?;
            }
            (Self::Wrapped(..), None) => return Err(ProofFailed),
            (Self::Bound(_, ciphers), _) => {
                ciphers[column].seal_into(row, plaintext.expose(), out);
                ciphers[column].open_into(row, out, check).map_err(|_| ProofFailed)?;
            }
        }
        // Both sides are ours: nothing is learnt from how long this takes, and it is asked of every value.
        if plaintext.expose() == check.expose() { Ok(()) } else { Err(ProofFailed) }
    }
}
