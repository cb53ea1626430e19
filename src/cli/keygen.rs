//! `keygen`: a fresh static key, or a local keyring.

use std::{
    fs::OpenOptions,
    io::{self, IsTerminal, Write, stdout},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use clap::{Arg, ArgAction, Command, builder::PossibleValuesParser};
use reseal::{
    envelope::v1::StaticCipher,
    keyring::{
        kms::{Kms, local::LocalKms},
        static_key::{self, KeyTextForm},
    },
    secret::{Plaintext, SecretText},
};

use super::{Answer, Call, Fault, stdio};

pub(super) fn command() -> Command {
    let path =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).value_name("FILE").help(help);
    Command::new("keygen")
        .about("Make a static key, or a local keyring")
        .args([
            path("file", "Write the static key to this new file, mode 0600"),
            Arg::new("form")
                .long("form")
                .value_name("FORM")
                .value_parser(PossibleValuesParser::new(["hex", "base64"]))
                .default_value("hex")
                .help("How the key is written: as the program that reads it takes it"),
            Arg::new("print")
                .long("print")
                .action(ArgAction::SetTrue)
                .conflicts_with("file")
                .help("Write the key to standard output even if that is a terminal"),
            path("local-kms", "Make a local keyring at this new file instead")
                .conflicts_with_all(["file", "print"]),
            Arg::new("rotate")
                .long("rotate")
                .action(ArgAction::SetTrue)
                .requires("local-kms")
                .help("Add a version to the keyring, which wraps from now on"),
        ])
        .after_help(
            "Examples:\n  \
             reseal keygen --file new.key\n  \
             reseal keygen | fly secrets import\n  \
             reseal keygen --local-kms keyring.json\n  \
             reseal keygen --local-kms keyring.json --rotate",
        )
}

pub(super) fn run(call: &Call) -> Result<Answer, Fault> {
    let text = |name| call.args.get_one::<String>(name).map(String::as_str);
    if let Some(path) = text("local-kms") {
        return keyring(Path::new(path), call.args.get_flag("rotate"));
    }
    let file = text("file");
    if file.is_none() && stdout().is_terminal() && !call.args.get_flag("print") {
        return Err(Fault::usage("the key would be shown on this terminal")
            .hint("reseal keygen --file FILE, or send it to a program, or say --print"));
    }
    let form = if text("form") == Some("base64") { KeyTextForm::Base64 } else { KeyTextForm::Hex };
    let key =
        static_key::generate(form).map_err(|_| Fault::failed("the operating system gave no randomness"))?;
    let written = static_key::encode(&key, form).expect("hex and base64 write any key");
    let id = StaticCipher::new(&key).id();
    let Some(path) = file else {
        stdio::note(format_args!("static:{id}"));
        let mut line = Plaintext::new();
        line.expose_mut().reserve_exact(written.expose().len() + 1);
        line.expose_mut().extend_from_slice(written.expose().as_bytes());
        line.expose_mut().push(b'\n');
        return Ok(Answer::Plaintext(line));
    };
    create(Path::new(path), &written).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Fault::refused(format!("{path} exists, and a key is never overwritten"))
        }
        kind => Fault::failed(format!("cannot write {path}: {kind}")),
    })?;
    stdio::note(format_args!("static:{id} is in {path}; name it static:file:{path}"));
    Ok(Answer::Nothing)
}

/// # Crash safety
/// The key is on disk when this returns. If the process dies before, nothing was said of the key, and nothing can be
/// under it.
fn create(path: &Path, text: &SecretText) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.expose().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

fn keyring(path: &Path, rotate: bool) -> Result<Answer, Fault> {
    let made = if rotate { LocalKms::rotate(path) } else { LocalKms::create(path) };
    let kms = made.map_err(|error| Fault::refused(error.to_string()))?;
    let done = if rotate { "has a new version, which wraps from now on" } else { "is made" };
    stdio::note(format_args!("{} {done}; name it local-kms:{}", kms.key_name(), path.display()));
    stdio::note(format_args!(
        "who reads the file has every key that was ever wrapped under it; losing it loses them"
    ));
    Ok(Answer::Nothing)
}
