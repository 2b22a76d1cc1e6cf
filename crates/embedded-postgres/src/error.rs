//! Why the embedded PostgreSQL could not be started.

use std::{path::PathBuf, time::Duration};

use crate::{account::NoAccount, binaries};

/// Why the embedded PostgreSQL could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// We are root, and there is nobody to step down to.
    #[error(transparent)]
    NoAccount(#[from] NoAccount),
    /// There is no PostgreSQL on this machine, or not where the settings say.
    #[error("the embedded PostgreSQL cannot start")]
    NoPrograms(#[source] binaries::NotFound),
    /// There is a PostgreSQL, but it cannot read what is in the folder.
    #[error("the data in {folder} was written by PostgreSQL {major}, and no other can read it")]
    OtherMajor {
        /// The data folder.
        folder: String,
        /// The version that wrote it.
        major: u32,
        /// What was looked for, and where.
        source: binaries::NotFound,
    },
    /// Another event-piper has claimed the folder.
    #[error(
        "another event-piper{} is already running on {}: stop that one, or name another --data-dir",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), folder.display()
    )]
    InUse {
        /// The data folder.
        folder: PathBuf,
        /// Whose it is.
        pid: Option<i32>,
    },
    /// The unprivileged account is shut out.
    #[error(
        "PostgreSQL runs as the account `{account}`, which may not enter {}: name another \
         --data-dir, or let that account in (chmod o+x)", folder.display()
    )]
    Unreachable {
        /// Who runs PostgreSQL.
        account: String,
        /// The outermost folder that is closed to it.
        folder: PathBuf,
    },
    /// The folder for the socket is somebody else's.
    #[error(
        "{} must be a folder that only the account of PostgreSQL can enter, and it is not: \
         remove it, or name a --data-dir with a shorter path", folder.display()
    )]
    Insecure {
        /// The folder for the socket.
        folder: PathBuf,
    },
    /// A file or folder of ours could not be read or written.
    #[error("{doing} {}", path.display())]
    File {
        /// What we were doing.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// PostgreSQL ended where it should have worked.
    #[error("{program} failed; it said:\n{said}")]
    Program {
        /// `initdb` or `postgres`.
        program: &'static str,
        /// The end of what it wrote.
        said: String,
    },
    /// PostgreSQL runs, and does not get ready.
    #[error("PostgreSQL was not ready within {within:?}; it said:\n{said}")]
    NotReady {
        /// How long we waited.
        within: Duration,
        /// The end of what it wrote.
        said: String,
    },
    /// The server refused what we asked.
    #[error("preparing the embedded database")]
    Database(#[from] tokio_postgres::Error),
}
