//! A KMS gives a data key back from its own blob and context, and for everything else says whose move is next.

mod aws;
mod local;

use reseal::keyring::kms::{Context, KmsError};

fn context(pairs: &[(&str, &str)]) -> Context {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The kind of an error, which decides what the engine does.
fn kind(error: &KmsError) -> &'static str {
    match error {
        KmsError::Blob { .. } => "blob",
        KmsError::Key { .. } => "key",
        KmsError::Service { .. } => "service",
    }
}
