//! Who runs PostgreSQL's programs: they refuse root, so root hands them to somebody else.

use std::{os::unix::process::CommandExt, path::Path, process::Command};

use nix::unistd::{Gid, Uid, User, chown, geteuid};

/// The system accounts that root may run PostgreSQL as, the most fitting first.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// The system account that PostgreSQL's programs run under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// Ourselves: we are no superuser.
    Own,
    /// We are root, and step down to this one.
    Other {
        /// Its name in the system's user database.
        name: String,
        /// Its user id.
        uid: Uid,
        /// Its main group.
        gid: Gid,
    },
}

impl Account {
    /// Ourselves, or as root the first unprivileged account that exists.
    pub fn choose() -> Result<Self, NoAccount> {
        if !geteuid().is_root() {
            return Ok(Self::Own);
        }
        let known = |name| User::from_name(name).ok().flatten();
        let user = UNPRIVILEGED.into_iter().find_map(known).ok_or(NoAccount)?;
        Ok(Self::Other { name: user.name, uid: user.uid, gid: user.gid })
    }

    /// A command that runs under this account, away from our working folder, which it may
    /// not be allowed to enter.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir("/");
        if let Self::Other { uid, gid, .. } = self {
            // The standard library drops root's other groups together with the user id.
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }

    /// Gives the file or folder to this account.
    pub fn own(&self, path: &Path) -> std::io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid, .. } => Ok(chown(path, Some(*uid), Some(*gid))?),
        }
    }

    /// The user id that owns what this account creates.
    #[must_use]
    pub fn uid(&self) -> Uid {
        match self {
            Self::Own => geteuid(),
            Self::Other { uid, .. } => *uid,
        }
    }
}

/// We are root, and there is nobody to step down to.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "PostgreSQL refuses to run as root, and this system has neither an account `postgres` nor \
     `nobody`: run event-piper as another user, or name a running server with --database-url"
)]
pub struct NoAccount;
