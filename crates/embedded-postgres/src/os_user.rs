//! The operating-system user that runs PostgreSQL's programs. They refuse to run as root, so root runs
//! them as another user.

use std::{os::unix::process::CommandExt, path::Path, process::Command};

use nix::unistd::{Gid, Uid, User, chown, geteuid};

/// The users as which root runs PostgreSQL, in order of preference.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// The operating-system user that PostgreSQL's programs run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OsUser {
    /// The user of this process, which is not root.
    Own,
    /// An unprivileged user, because this process runs as root.
    Other {
        /// The name in the system's user database.
        name: String,
        /// The user id.
        uid: Uid,
        /// The primary group.
        gid: Gid,
    },
}

impl OsUser {
    /// Returns the user of this process, or, if this process runs as root, the first unprivileged user that exists.
    ///
    /// # Errors
    /// If this process runs as root, and no such user exists.
    pub fn choose() -> Result<Self, NoOsUser> {
        if !geteuid().is_root() {
            return Ok(Self::Own);
        }
        let known = |name| User::from_name(name).ok().flatten();
        let user = UNPRIVILEGED.into_iter().find_map(known).ok_or(NoOsUser)?;
        Ok(Self::Other { name: user.name, uid: user.uid, gid: user.gid })
    }

    /// Returns a command that runs as this user. Its working directory is `/`, because the user may not be
    /// allowed to enter the working directory of this process.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir("/");
        if let Self::Other { uid, gid, .. } = self {
            // The standard library also drops root's supplementary groups when it sets the user id.
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }

    /// Makes this user the owner of a file or folder.
    pub fn own(&self, path: &Path) -> std::io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid, .. } => Ok(chown(path, Some(*uid), Some(*gid))?),
        }
    }

    /// The user id.
    #[must_use]
    pub fn uid(&self) -> Uid {
        match self {
            Self::Own => geteuid(),
            Self::Other { uid, .. } => *uid,
        }
    }
}

/// The process runs as root, and no unprivileged user exists to run PostgreSQL as.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "PostgreSQL refuses to run as root, and this system has neither a user `postgres` nor \
     `nobody`: run event-piper as another user, or use a running server with --database-url"
)]
pub struct NoOsUser;
