//! Why the embedded PostgreSQL could not be started.

use std::{path::PathBuf, time::Duration};

use crate::{binaries, os_user::NoOsUser};

/// Why the embedded PostgreSQL could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The process runs as root, and no unprivileged user exists to run PostgreSQL as.
    #[error(transparent)]
    NoOsUser(#[from] NoOsUser),
    /// PostgreSQL's server programs were not found.
    #[error("cannot start the embedded PostgreSQL")]
    NoPrograms(#[source] binaries::NotFound),
    /// PostgreSQL is installed, but not the major version of the cluster.
    #[error(
        "the data in {folder} was written by PostgreSQL {major}, and only that version can read it"
    )]
    OtherMajor {
        /// The data folder.
        folder: String,
        /// The major version of the cluster.
        major: u32,
        /// The result of the search for that version.
        source: binaries::NotFound,
    },
    /// Another event-piper has locked the folder.
    #[error(
        "another event-piper{} is already running on {}: stop it, or use another --data-dir",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), folder.display()
    )]
    InUse {
        /// The data folder.
        folder: PathBuf,
        /// The process that has locked it, if known.
        pid: Option<i32>,
    },
    /// The unprivileged user that runs PostgreSQL cannot enter the folder.
    #[error(
        "PostgreSQL runs as the user `{user}`, which may not enter {}: use another \
         --data-dir, or allow that user to enter the folder (chmod o+x)", folder.display()
    )]
    Unreachable {
        /// The user that runs PostgreSQL.
        user: String,
        /// The outermost folder that the user cannot enter.
        folder: PathBuf,
    },
    /// Other users can enter the folder of the socket, or it belongs to one of them.
    #[error(
        "{} must be a folder that only the user of PostgreSQL can enter, and it is not: \
         remove it, or use a --data-dir with a shorter path", folder.display()
    )]
    Insecure {
        /// The folder of the socket.
        folder: PathBuf,
    },
    /// A file or folder could not be read or written, or a program could not be run.
    #[error("{doing} {}", path.display())]
    File {
        /// The operation, such as `creating`.
        doing: &'static str,
        /// The file, folder or program.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A program of PostgreSQL failed.
    #[error("{program} failed with the following output:\n{output}")]
    Program {
        /// `initdb` or `postgres`.
        program: &'static str,
        /// The last lines of its output.
        output: String,
    },
    /// PostgreSQL runs, but did not become ready in time.
    #[error("PostgreSQL was not ready within {} s; its output:\n{output}", within.as_secs())]
    NotReady {
        /// The deadline.
        within: Duration,
        /// The last lines of its output.
        output: String,
    },
    /// The server refused a statement that prepares the database.
    #[error("preparing the embedded database")]
    Database(#[from] tokio_postgres::Error),
}
