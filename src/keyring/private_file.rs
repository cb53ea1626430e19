//! Files that hold secrets.
//!
//! Such a file is read only if nobody but its owner may, and only into memory that is wiped. The mode is that of
//! the file that was opened, so it can't be exchanged between the check and the reading.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// Why a file that holds a secret was not read.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// The system refused.
    #[error("cannot read {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// Its group or everybody may read or write it.
    #[error("{} is open to others (mode {mode:04o}): run `chmod 600 {}`", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is longer than anything it could rightly hold.
    #[error("{} is longer than {limit} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The longest that is read, in bytes.
        limit: usize,
    },
}

/// The whole content of the private file `path`, at most `limit` bytes.
pub fn read(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    let unreadable = |cause| PrivateFileError::Unreadable { path: path.into(), cause };
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(unreadable(io::ErrorKind::IsADirectory.into()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Exposed { path: path.into(), mode });
    }
    // Allocated once: a buffer that grows leaves copies behind, and so does `read_to_end`, which probes the end
    // of a file through an array on the stack.
    let mut content = Zeroizing::new(vec![0; limit + 1]);
    let mut len = 0;
    while len < content.len() {
        match file.read(&mut content[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(unreadable(cause)),
        }
    }
    if len > limit {
        return Err(PrivateFileError::TooLong { path: path.into(), limit });
    }
    content.truncate(len);
    Ok(content)
}
