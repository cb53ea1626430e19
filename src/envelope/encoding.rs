//! How a column holds the bytes of a value.

use base64::{Engine, engine::general_purpose::STANDARD};

/// How a column holds the bytes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// `bytea` and `BLOB`: the bytes themselves.
    Bytes,
    /// `text`: base64 in the standard alphabet, padded, on one line (RFC 4648, section 4).
    Base64,
}

impl Encoding {
    /// The value that a column holds as `stored`, or `None` if that is not the column's encoding.
    ///
    /// Only canonical base64 decodes, so that a value has one stored form: no line breaks or spaces, no URL-safe
    /// alphabet, no missing padding, no bits set behind the last byte. Base64 is decoded into `buffer`, whose old
    /// contents are lost.
    pub fn decode<'a>(self, stored: &'a [u8], buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        match self {
            Self::Bytes => Some(stored),
            Self::Base64 => {
                buffer.clear();
                STANDARD.decode_vec(stored, buffer).ok()?;
                Some(buffer)
            }
        }
    }

    /// What a column holds at the beginning of every value that begins with `prefix`: in base64 the characters that
    /// `prefix` decides whole.
    pub fn encode_prefix(self, prefix: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        self.encode_into(prefix, &mut encoded);
        if self == Self::Base64 {
            encoded.truncate(prefix.len() * 8 / 6);
        }
        encoded
    }

    /// Replaces the contents of `out` with what the column stores for `value`.
    pub fn encode_into(self, value: &[u8], out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Bytes => out.extend_from_slice(value),
            Self::Base64 => {
                out.resize(value.len().div_ceil(3) * 4, 0);
                STANDARD.encode_slice(value, out).expect("four digits for each three bytes begun");
            }
        }
    }
}
