//! What the tests stand on: real servers of their own, an independent reading of the value formats, and tenants.
//!
//! Every server is a process of this machine with its files in a folder of its own under `/tmp`, and is gone, files
//! and all, when the test process ends, whichever way it ends. Nothing here shares code with the crate under test.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

pub(crate) mod fault_proxy;
pub(crate) mod moto;
pub(crate) mod oracle;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod prism;
pub(crate) mod redis;
pub(crate) mod supervisor;
pub(crate) mod tenants;
pub(crate) mod vendors;

/// The interpreter of the virtual environment that `test.sh` makes from `requirements.txt`, or that
/// `RESEAL_TEST_VENV` names.
pub(crate) fn python() -> PathBuf {
    let venv = std::env::var_os("RESEAL_TEST_VENV")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-venv"), PathBuf::from);
    let python = venv.join("bin/python");
    assert!(python.exists(), "{} is missing: run ./test.sh once", python.display());
    python
}

/// Writes a file that only its owner reads, as one has to be that holds a key.
pub(crate) fn private_file(path: &Path, content: &str) {
    fs::write(path, content).expect("its folder is there");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
}

/// A folder for SQLite's files: in memory where the system has a place for that. Like the shared cluster, they need
/// not outlive a crash of the machine, and to wait for the disk is most of what they would cost.
pub(crate) fn folder_in_memory() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a place for files")
}
