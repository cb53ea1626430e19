//! What the KMS keys of a run allow, before the first value needs them.

use serde::Serialize;
use uuid::Uuid;

use crate::{
    envelope::Format,
    keyring::{
        kms::{self, ConnectError, Context, KmsError, Operation, Standing},
        spec::{KeySpec, KmsSpec},
    },
    rekey::{KeyChoice, RekeyError, prepare::refused},
    store::Finding,
};

/// How one operation stands under one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Permission {
    /// The key's resolved name, or, when it could not be resolved, the name it was given by.
    pub key: String,
    /// The operation, as policies name it.
    pub operation: &'static str,
    /// What the service says.
    #[serde(flatten)]
    pub standing: Standing,
}

/// Asks each KMS key of `choice` for what a run on the table with the logical name `table` needs of it. `active` are
/// the KMS keys of the table's active data keys: v3 makes a new one only where there is none.
///
/// # Errors
/// A key that can't be set up at all: no region, no credentials, no keyring file.
pub(super) async fn preflight(
    choice: &KeyChoice,
    table: &str,
    active: &[String],
) -> Result<Vec<Permission>, RekeyError> {
    let mut specs: Vec<&KmsSpec> = Vec::new();
    for key in [&choice.new].into_iter().chain(&choice.old) {
        if let KeySpec::Kms(spec) = key
            && !specs.contains(&spec)
        {
            specs.push(spec);
        }
    }
    let mut permissions = Vec::new();
    for spec in specs {
        let kms = match kms::connect(spec).await {
            Ok(kms) => kms,
            Err(ConnectError::Kms(error)) => {
                permissions.push(unresolved(spec, error));
                continue;
            }
            Err(error) => return Err(refused(&KeySpec::Kms(spec.clone()), &error)),
        };
        let is_new = matches!(&choice.new, KeySpec::Kms(new) if new == spec);
        let has_data_key = !choice.new_data_key && active.iter().any(|name| name == kms.key_name());
        let context = match choice.format {
            Format::V3 if is_new => {
                [("reseal:purpose", table.to_owned()), ("reseal:wrap", Uuid::new_v4().to_string())]
                    .map(|(name, value)| (name.to_owned(), value))
                    .into()
            }
            _ => Context::new(),
        };
        let generates = is_new && (choice.format != Format::V3 || !has_data_key);
        let operations =
            generates.then_some(Operation::GenerateDataKey).into_iter().chain([Operation::Decrypt]);
        for operation in operations {
            let standing = kms.preflight(operation, &context).await;
            let key = kms.key_name().to_owned();
            permissions.push(Permission { key, operation: operation.as_str(), standing });
        }
    }
    Ok(permissions)
}

/// What it says of a key that its name could not be resolved.
fn unresolved(spec: &KmsSpec, error: KmsError) -> Permission {
    let operation = match &error {
        KmsError::Blob { operation, .. }
        | KmsError::Key { operation, .. }
        | KmsError::Service { operation, .. } => operation,
    };
    Permission { key: spec.to_string(), operation, standing: Err::<(), _>(error).into() }
}

impl Permission {
    /// What a plan makes of it.
    pub(super) fn finding(&self) -> Option<Finding> {
        let Self { key, operation, standing } = self;
        match standing {
            Standing::Allowed => None,
            Standing::Refused(code) => Some(Finding::refusal(
                format!("{operation} under {key} is not allowed ({code})"),
                format!(
                    "allow {operation} on this key, in its policy or the role's; reseal never needs Encrypt"
                ),
            )),
            Standing::Unknown(code) => Some(Finding::warning(
                format!("whether {operation} under {key} is allowed could not be learnt ({code})"),
                "the first batch of a run will tell; nothing is lost if it is not",
            )),
        }
    }
}
