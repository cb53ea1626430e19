//! `drill`: the main job, end to end, on a database and a KMS of its own. Needs nothing and leaves nothing.
//!
//! What is re-keyed is made up; how is not: every command is this very program in a process of its own, as an operator
//! would type it, against a table that is being written. Whether it held is judged twice: by `reseal verify`, and by
//! the [control plane](control_plane)'s ledger, which knows nothing of runs.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Arg, Command, builder::PossibleValuesParser, value_parser};
use reseal::envelope::Format;
use tempfile::TempDir;
use tokio::time::sleep;

use super::{Answer, Call, Fault, signals::Signals};

mod acts;
mod control_plane;
mod program;
mod story;
mod tenants;

/// Tenants, unless told otherwise: few enough for seconds, enough to be killed among.
const ROWS: &str = "2000";

pub(super) fn command() -> Command {
    Command::new("drill")
        .about("See the whole job on a made-up table: re-keyed in use, killed, resumed, verified")
        .args([
            Arg::new("rows")
                .long("rows")
                .value_name("N")
                .value_parser(value_parser!(u32))
                .default_value(ROWS)
                .help("Tenants in the table"),
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(PossibleValuesParser::new(["v1", "v2", "v3"]))
                .default_value("v2")
                .help("What to write: v1 under a static key, v2 or v3 under a local KMS"),
            Arg::new("keep")
                .long("keep")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .help("Work in this new or empty directory, and leave everything there"),
        ])
        .after_help(
            "Uses no network, touches no database but its own, and reads no setting and no key of yours.\n\n\
             Examples:\n  \
             reseal drill\n  \
             reseal drill --format v3 --rows 200000\n  \
             reseal drill --keep /tmp/drill",
        )
}

pub(super) async fn run(call: &Call) -> Result<Answer, Fault> {
    let mut signals = Signals::install()?;
    let rows = call.args.get_one::<u32>("rows").copied().unwrap_or_default();
    let format = match call.args.get_one::<String>("format").map(String::as_str) {
        Some("v1") => Format::V1,
        Some("v3") => Format::V3,
        _ => Format::V2,
    };
    let folder = Folder::make(call.args.get_one::<PathBuf>("keep").map(PathBuf::as_path))?;
    let told = tokio::select! {
        told = acts::tell(rows, format, &folder) => told,
        () = signals.next() => Err(Fault::failed("interrupted")),
    };
    folder.leave().await?;
    told.map(|()| Answer::Nothing)
}

/// Where the drill keeps its database and its keys; closed to others.
struct Folder {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl Folder {
    fn make(keep: Option<&Path>) -> Result<Self, Fault> {
        let refused = |path: &Path, error: &io::Error| {
            Fault::failed(format!("cannot make {}: {}", path.display(), error.kind()))
        };
        let Some(path) = keep else {
            let temporary = tempfile::Builder::new().prefix("reseal-drill-").tempdir();
            let temporary = temporary.map_err(|error| refused(&std::env::temp_dir(), &error))?;
            return Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary) });
        };
        match fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => {
                return Err(Fault::refused(format!("{} is not empty", path.display()))
                    .hint("name a directory that is new or empty"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new().mode(0o700).create(path).map_err(|error| refused(path, &error))?;
            }
            Err(error) => return Err(refused(path, &error)),
        }
        let path = path.canonicalize().map_err(|error| refused(path, &error))?;
        Ok(Self { path, temporary: None })
    }

    fn is_kept(&self) -> bool {
        self.temporary.is_none()
    }

    /// Removes it, unless it is to be kept.
    async fn leave(self) -> Result<(), Fault> {
        /// How often to try: a database that was just let go may still be closing its files.
        const TRIES: u32 = 40;

        let Some(temporary) = self.temporary else { return Ok(()) };
        for _ in 1..TRIES {
            if fs::remove_dir_all(temporary.path()).is_ok() {
                // There is nothing left for it to remove.
                drop(temporary);
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        let shown = self.path.display().to_string();
        temporary.close().map_err(|error| Fault::failed(format!("cannot remove {shown}: {}", error.kind())))
    }
}
