//! The file that a certificate is written to: a new one, and never over another.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
};

use clap::{Arg, ArgMatches};

use super::Fault;

/// `--certificate`.
pub(super) fn arg() -> Arg {
    Arg::new("certificate")
        .long("certificate")
        .value_name("FILE")
        .help("Write the certificate to this file too, which must not exist")
}

/// The file that was named, which is not there yet.
pub(super) fn file(args: &ArgMatches) -> Result<Option<&str>, Fault> {
    let file = args.get_one::<String>("certificate").map(String::as_str);
    match file {
        Some(file) if Path::new(file).exists() => {
            Err(Fault::refused(format!("{file} exists, and a certificate overwrites nothing"))
                .hint("name another file"))
        }
        file => Ok(file),
    }
}

/// # Crash safety
/// The file is on disk, whole, when this returns; the certificate is in the database before it is written.
pub(super) fn write_new(file: &str, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(file)?;
    file.write_all(content)?;
    file.sync_all()
}
