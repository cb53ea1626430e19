//! `seal`: one value, from standard input to standard output.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Command;
use reseal::{
    envelope::{Format, v1::StaticCipher},
    keyring::{ClearText, Sealer, spec::KeySpec, static_key},
    rekey::{self, DataKeyScope, Intent, KeyChoice, Options, RekeyError},
    secret::Plaintext,
};

use super::{
    Answer, Call, Fault, args, connect, meant,
    open::{self, CellName},
    stdio,
};

pub(super) fn command() -> Command {
    let command = Command::new("seal").about("Seal one value: standard input to standard output");
    let groups = [args::DATABASE, args::NAME, &["key-column", "new", "format"], args::READING];
    args::with_settings(open::with_cell(command), &groups).after_help(
        "Standard input is sealed as it is, a newline at its end included.\n\n\
         Examples:\n  \
         printf %s \"$URL\" | reseal seal --encoding base64 --new aws-kms:alias/tenants\n  \
         printf %s \"$URL\" | reseal seal --format v3 --row 0c9d… --column redis_url_encrypted --new local-kms:keyring.json",
    )
}

pub(super) async fn run(call: &Call) -> Result<Answer, Fault> {
    let (new, format) = (meant::new_key(call)?, meant::format(call)?);
    let limit = meant::max_value(call)?;
    let (sealer, row) = match (format, new) {
        (Format::V1, KeySpec::Static(source)) => {
            let key = static_key::load(&source).map_err(|error| Fault::refused(error.to_string()))?.key;
            (Arc::new(Sealer::Static(Arc::new(StaticCipher::new(&key)))), String::new())
        }
        (Format::V2, KeySpec::Kms(spec)) => {
            (Arc::new(Sealer::Wrapped(open::connect_kms(&spec).await?)), String::new())
        }
        (Format::V3, new @ (KeySpec::Kms(_) | KeySpec::DataKey(_))) => bound(call, new).await?,
        (format, _) => {
            return Err(Fault::usage(format!("format {format} does not go with the key given as --new"))
                .hint("v1 takes a static key, v2 and v3 a KMS key"));
        }
    };
    let plaintext = open::read(limit)?;
    if plaintext.expose().len() > limit {
        return Err(Fault::usage("standard input is longer than --max-value allows"));
    }
    if plaintext.expose().ends_with(b"\n") {
        stdio::note(format_args!("note: the newline at the end was sealed too; printf %s writes none"));
    }
    let row_keys = sealer.row_keys().await?;
    let (mut sealed, mut check) = (Vec::new(), Plaintext::new());
    sealer
        .seal(0, &row, row_keys.as_ref(), &plaintext, &mut sealed, &mut check)
        .map_err(RekeyError::Proof)?;
    let encoding = call.args.get_one::<String>("encoding").map(String::as_str);
    Ok(Answer::Bytes(match encoding {
        Some("base64") => (BASE64_STANDARD.encode(&sealed) + "\n").into_bytes(),
        Some("hex") => (hex::encode(&sealed) + "\n").into_bytes(),
        _ => sealed,
    }))
}

/// Seals for one cell, under the active data key; makes none.
async fn bound(call: &Call, new: KeySpec) -> Result<(Arc<Sealer>, String), Fault> {
    let cell = CellName::from(&call.args).ok_or_else(|| {
        Fault::usage("a v3 value is bound to its cell").hint("name it with --row KEY and --column NAME")
    })?;
    let store = connect::migrated_store(call, 1).await?;
    let target = connect::target(store.as_ref(), &cell.target_name(call)?).await?;
    let row = open::canonical(&target, &cell.row)?;
    let choice = KeyChoice {
        old: Vec::new(),
        new,
        format: Format::V3,
        scope: DataKeyScope::default(),
        new_data_key: false,
        clear_text: ClearText::default(),
    };
    // As for a verify: takes the active data key, and never makes one up.
    let job = rekey::prepare(store, target, &choice, Options::default(), Intent::Verify).await?;
    Ok((job.sealer, row))
}
