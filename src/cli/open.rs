//! `open`: one value, from standard input to standard output.

use std::{
    io::{IsTerminal, stdout},
    sync::Arc,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser};
use reseal::{
    envelope::{Shape, v1::StaticCipher},
    keyring::{
        self, Attempt, Opener, Reason,
        kms::{self, ConnectError, Kms},
        spec::{KeySpec, KmsSpec},
        static_key,
    },
    secret::Plaintext,
    store::{RowKey, TargetName},
};

use super::{Answer, Call, Fault, args, connect, meant, stdio};

pub(super) fn command() -> Command {
    let command = Command::new("open").about("Open one value: standard input to standard output").arg(
        Arg::new("print")
            .long("print")
            .action(ArgAction::SetTrue)
            .help("Write the plaintext even to a terminal"),
    );
    let groups = [args::DATABASE, args::NAME, &["key-column", "old"], args::READING];
    args::with_settings(with_cell(command), &groups).after_help(
        "A v3 value opens in its own cell only, and its data key is in the database: give --row and --column.\n\n\
         Examples:\n  \
         reseal open --encoding base64 --old static:env:SECRETS_ENCRYPTION_KEY < value | psql -f -\n  \
         reseal open --row 0c9d… --column redis_url_encrypted --old local-kms:keyring.json < value",
    )
}

/// The arguments that `open` and `seal` share.
pub(super) fn with_cell(command: Command) -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    command.args([
        text("row", "KEY", "v3: the row's primary key"),
        Arg::new("cell-column").long("column").value_name("NAME").help("v3: the column"),
        text("encoding", "FORM", "How the sealed value is written")
            .value_parser(PossibleValuesParser::new(["raw", "base64", "hex"]))
            .default_value("raw"),
    ])
}

/// The cell that a v3 value is bound to.
pub(super) struct CellName {
    pub(super) row: String,
    pub(super) column: String,
}

impl CellName {
    /// The cell that was named.
    pub(super) fn from(args: &ArgMatches) -> Option<Self> {
        let text = |name| args.get_one::<String>(name).cloned();
        Some(Self { row: text("row")?, column: text("cell-column")? })
    }

    /// The same for messages and for formats that know no cell.
    fn any() -> Self {
        Self { row: String::new(), column: String::new() }
    }

    /// The target, with this cell's column alone.
    pub(super) fn target_name(&self, call: &Call) -> Result<TargetName, Fault> {
        Ok(TargetName { columns: vec![self.column.clone()], ..meant::target_name(call)? })
    }
}

pub(super) async fn run(call: &Call) -> Result<Answer, Fault> {
    if stdout().is_terminal() && !call.args.get_flag("print") {
        return Err(Fault::usage("the plaintext would be shown on this terminal")
            .hint("send it to a file or a program, or say --print"));
    }
    let old = call.settings.keys("old")?;
    if old.is_empty() {
        return Err(Fault::usage("no key is named")
            .hint("--old static:env:NAME, aws-kms:ARN-OR-ALIAS or local-kms:FILE"));
    }
    let limit = meant::max_value(call)?;
    let value = decode(call, &read(limit)?)?;
    let named = CellName::from(&call.args);
    let in_database =
        Shape::of(&value).v3.is_some() && named.is_some() && call.settings.value("database-url").is_some();
    let mut cell = named.unwrap_or_else(CellName::any);
    let name = cell.target_name(call)?;
    let mut opener = Opener::new(name.logical(), [cell.column.clone()]);
    let mut configured: Vec<Arc<dyn Kms>> = Vec::new();
    for spec in &old {
        match spec {
            KeySpec::Static(source) => {
                let key = static_key::load(source).map_err(|error| Fault::refused(error.to_string()))?.key;
                opener.add_static(Arc::new(StaticCipher::new(&key)));
            }
            KeySpec::Kms(spec) => configured.push(connect_kms(spec).await?),
            KeySpec::DataKey(_) => {
                return Err(Fault::usage("a data key is unwrapped by its KMS key: name that one with --old"));
            }
        }
    }
    configured.iter().for_each(|kms| opener.add_kms(Arc::clone(kms)));
    if in_database {
        let store = connect::migrated_store(call, 1).await?;
        let target = connect::target(store.as_ref(), &name).await?;
        cell.row = canonical(&target, &cell.row)?;
        for row in store.data_keys(Some(name.logical())).await?.iter().filter(|row| row.state.opens()) {
            match keyring::unwrap(row, &configured).await {
                Ok(key) => opener.add_data_key(&key),
                Err(_) => opener.add_unavailable(reseal::envelope::KeyId::from_bytes(row.key_id)),
            }
        }
    }
    let mut plaintext = Plaintext::new();
    match opener.open(0, &cell.row, &value, &mut plaintext).await? {
        Attempt::Opened(origin) => {
            stdio::note(format_args!("opened as {}", origin.format));
            Ok(Answer::Plaintext(plaintext))
        }
        Attempt::Refused(reason) => Err(unopened(reason, in_database)),
        Attempt::Wrapped => Err(unopened(Reason::Unopened, in_database)),
    }
}

fn unopened(reason: Reason, in_database: bool) -> Fault {
    let fault = Fault::refused(format!("the value does not open: {reason}"));
    match reason {
        Reason::Malformed => fault.hint("is it in another --encoding?"),
        Reason::UnknownKey if !in_database => {
            fault.hint("a v3 value needs its cell and the registry: --row, --column and --database-url")
        }
        Reason::UnknownKey => fault.hint("reseal keys list"),
        Reason::Tampered => fault.hint("it was changed, or it belongs to another table, row or column"),
        Reason::KeyUnavailable => {
            fault.hint("name the KMS key that wraps its data key with --old: reseal keys list")
        }
        Reason::Plaintext => fault.hint("it is a URL in the clear"),
        Reason::Unopened | Reason::TooLarge => fault.hint("name the key that it is under with --old"),
    }
}

/// The primary key as v3 values are bound to it.
pub(super) fn canonical(target: &reseal::store::Target, row: &str) -> Result<String, Fault> {
    RowKey::parse(target.key_kind, row)
        .map(|key| key.to_string())
        .ok_or_else(|| Fault::usage(format!("--row is not a key of {}'s type", target.table)))
}

pub(super) async fn connect_kms(spec: &KmsSpec) -> Result<Arc<dyn Kms>, Fault> {
    kms::connect(spec).await.map_err(|error| match error {
        ConnectError::Kms(error) => error.into(),
        error => Fault::refused(error.to_string()),
    })
}

/// Standard input, to its end.
pub(super) fn read(limit: usize) -> Result<Plaintext, Fault> {
    // Text takes up to twice the bytes that it encodes.
    let content = stdio::read(limit.saturating_mul(2))
        .map_err(|error| Fault::failed(format!("cannot read standard input: {}", error.kind())))?;
    content.ok_or_else(|| Fault::usage("standard input is longer than --max-value allows"))
}

fn decode(call: &Call, content: &Plaintext) -> Result<Vec<u8>, Fault> {
    let encoding = call.args.get_one::<String>("encoding").map_or("raw", String::as_str);
    let text = content.expose().trim_ascii();
    let decoded = match encoding {
        "base64" => BASE64_STANDARD.decode(text).ok(),
        "hex" => hex::decode(text.strip_prefix(b"\\x").unwrap_or(text)).ok(),
        _ => Some(content.expose().to_vec()),
    };
    decoded.ok_or_else(|| Fault::usage(format!("standard input is not {encoding}")))
}
