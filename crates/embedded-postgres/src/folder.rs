//! The data folder: its lock, its contents, and the creation of a cluster in it.
//!
//! ```text
//! lock             locked by the running event-piper; contains its pid
//! cluster/         PostgreSQL's data directory
//! cluster.new/     the same while initdb runs; removed after an interruption
//! socket/          the private socket
//! postgresql.log   PostgreSQL's log
//! password         the password for the TCP port, if there is one
//! ```

use std::{
    env, fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};

use crate::{binaries::Binaries, error::EmbeddedError, os_user::OsUser};

/// The name of the database, and of the role that owns it and is the superuser of the cluster.
pub const NAME: &str = "event_piper";

/// The longest socket path that every system supports, minus `/.s.PGSQL.65535`.
const MAX_SOCKET_DIR_BYTES: usize = 103 - 16;
/// A log larger than this is renamed at the next start.
const LARGE_LOG_BYTES: u64 = 16 << 20;
/// The number of lines at the end of a log that an error shows.
const TAIL_LINES: usize = 20;

/// Every user who can enter the socket's folder may log in without a password. Over TCP, a password is required.
const HBA: &str = "\
local all all trust
host all all 127.0.0.1/32 scram-sha-256
";

/// The default data folder: `/var/lib/event-piper` for root, otherwise a folder in the platform's folder
/// for user data. `None` if there is no home folder.
#[must_use]
pub fn default_data_dir() -> Option<PathBuf> {
    if geteuid().is_root() {
        return Some("/var/lib/event-piper".into());
    }
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|it| it.is_absolute());
    let home = || absolute("HOME");
    let data = if cfg!(target_os = "macos") {
        home()?.join("Library/Application Support")
    } else {
        absolute("XDG_DATA_HOME").or_else(|| Some(home()?.join(".local/share")))?
    };
    Some(data.join("event-piper"))
}

/// A data folder that is locked for this process as long as the value lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    os_user: OsUser,
    socket_dir: PathBuf,
    _lock: Flock<File>,
}

impl Folder {
    /// Creates the folder if it does not exist, and locks it for this process.
    pub(super) fn claim(path: &Path, os_user: OsUser) -> Result<Self, EmbeddedError> {
        let doing = |doing| file_error(doing, path);
        let mut builder = DirBuilder::new();
        // If root creates the folder, the user that runs PostgreSQL must be able to traverse it.
        let mode = if os_user == OsUser::Own { 0o700 } else { 0o711 };
        builder.recursive(true).mode(mode).create(path).map_err(doing("creating"))?;
        let path = path.canonicalize().map_err(doing("finding"))?;
        let lock = lock(&path)?;
        check_reachable(&path, &os_user)?;
        let socket_dir = socket_dir(&path);
        Ok(Self { path, os_user, socket_dir, _lock: lock })
    }

    /// PostgreSQL's data directory in this data folder.
    pub(super) fn cluster_in(path: &Path) -> PathBuf {
        path.join("cluster")
    }

    pub(super) fn cluster(&self) -> PathBuf {
        Self::cluster_in(&self.path)
    }

    pub(super) fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    pub(super) fn os_user(&self) -> &OsUser {
        &self.os_user
    }

    /// The major version of the cluster; `None` if there is no cluster yet.
    pub(super) fn major(&self) -> Option<u32> {
        fs::read_to_string(self.cluster().join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// Creates the cluster in a temporary folder and renames it when it is complete, so that an
    /// interruption never leaves an incomplete cluster behind.
    pub(super) async fn initialize(&self, binaries: &Binaries) -> Result<(), EmbeddedError> {
        let new = self.path.join("cluster.new");
        // Prefer the locale with full Unicode support. Some systems have only `C`.
        let first = self.initdb(binaries, &new, "C.UTF-8").await;
        if first.is_err() {
            self.initdb(binaries, &new, "C").await?;
        }
        let cluster = self.cluster();
        fs::rename(&new, &cluster).map_err(file_error("creating", &cluster))?;
        let synced = File::open(&self.path).and_then(|folder| folder.sync_all());
        synced.map_err(file_error("syncing", &self.path))
    }

    async fn initdb(&self, with: &Binaries, new: &Path, locale: &str) -> Result<(), EmbeddedError> {
        if new.exists() {
            fs::remove_dir_all(new).map_err(file_error("removing", new))?;
        }
        self.create_private(new)?;
        let mut command = self.os_user.command(with.program("initdb"));
        command.arg("-D").arg(new).arg(format!("--username={NAME}")).arg("--data-checksums");
        command.args(["--auth=trust", "--encoding=UTF8", "--locale", locale]).env("LC_ALL", "C");
        let program = with.program("initdb");
        let output = tokio::process::Command::from(command).output().await;
        let output = output.map_err(file_error("running", &program))?;
        if output.status.success() {
            return Ok(());
        }
        let output = last_lines(&String::from_utf8_lossy(&output.stderr));
        Err(EmbeddedError::Program { program: "initdb", output })
    }

    /// Prepares the folder for a start. Returns the password for the TCP port, if a port is used.
    pub(super) fn prepare(&self, port: Option<u16>) -> Result<Option<String>, EmbeddedError> {
        self.prepare_socket_dir()?;
        let hba = self.cluster().join("pg_hba.conf");
        fs::write(&hba, HBA).map_err(file_error("writing", &hba))?;
        self.rotate_large_log();
        port.map(|_| self.password()).transpose()
    }

    fn prepare_socket_dir(&self) -> Result<(), EmbeddedError> {
        let folder = &self.socket_dir;
        if fs::symlink_metadata(folder).is_err() {
            self.create_private(folder)?;
        }
        let it = fs::symlink_metadata(folder).map_err(file_error("inspecting", folder))?;
        let private = it.is_dir() && it.mode() & 0o777 == 0o700;
        if private && it.uid() == self.os_user.uid().as_raw() {
            return Ok(());
        }
        Err(EmbeddedError::Insecure { folder: folder.clone() })
    }

    fn create_private(&self, folder: &Path) -> Result<(), EmbeddedError> {
        let created = DirBuilder::new().mode(0o700).create(folder);
        let created = created.and_then(|()| self.os_user.own(folder));
        created.map_err(file_error("creating", folder))
    }

    /// Returns the password, which is generated when a TCP port is first used. Quotes are escaped for SQL.
    fn password(&self) -> Result<String, EmbeddedError> {
        let path = self.path.join("password");
        if let Ok(password) = fs::read_to_string(&path) {
            // Escape quotes, because the password becomes part of an SQL statement and users may edit the file.
            return Ok(password.trim().replace('\'', "''"));
        }
        let password = random_password().map_err(file_error("generating a password for", &path))?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| writeln!(file, "{password}"));
        written.map_err(file_error("writing", &path))?;
        Ok(password)
    }

    /// Opens PostgreSQL's log for appending.
    pub(super) fn open_log(&self) -> Result<File, EmbeddedError> {
        let log = self.log();
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log)
            .map_err(file_error("opening", &log))
    }

    /// The last lines that PostgreSQL has written since the log had this length.
    pub(super) fn log_since(&self, length_bytes: u64) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let since = usize::try_from(length_bytes).unwrap_or(usize::MAX).min(log.len());
        last_lines(&String::from_utf8_lossy(&log[since..]))
    }

    fn log(&self) -> PathBuf {
        self.path.join("postgresql.log")
    }

    fn rotate_large_log(&self) {
        let log = self.log();
        if log.metadata().is_ok_and(|it| it.len() > LARGE_LOG_BYTES) {
            let _ = fs::rename(&log, self.path.join("postgresql.log.old"));
        }
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// Takes the lock. The system releases it when this process ends, for any reason; PostgreSQL does not inherit it.
///
/// # Errors
/// [`EmbeddedError::InUse`] with the pid of the process that holds the lock.
fn lock(folder: &Path) -> Result<Flock<File>, EmbeddedError> {
    let path = folder.join("lock");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(file_error("opening", &path))?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = pid.trim().parse().ok();
            return Err(EmbeddedError::InUse { folder: folder.to_owned(), pid });
        }
        Err((_, e)) => return Err(file_error("locking", &path)(e.into())),
    };
    let noted = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
    noted.map_err(file_error("writing", &path))?;
    Ok(lock)
}

/// Checks that the user can enter the folder. Any parent folder may deny access, so the check starts at the root.
fn check_reachable(path: &Path, os_user: &OsUser) -> Result<(), EmbeddedError> {
    const ENTER: &str = r#"for dir; do cd "$dir" 2>/dev/null || { printf %s "$dir"; exit; }; done"#;
    let OsUser::Other { name, .. } = os_user else { return Ok(()) };
    let mut ancestors: Vec<_> = path.ancestors().collect();
    ancestors.reverse();
    let output = os_user.command("sh").args(["-c", ENTER, "sh"]).args(ancestors).output();
    let output = output.map_err(file_error("entering", path))?;
    match String::from_utf8_lossy(&output.stdout) {
        closed if closed.is_empty() => Ok(()),
        closed => {
            let folder = closed.into_owned().into();
            Err(EmbeddedError::Unreachable { user: name.clone(), folder })
        }
    }
}

/// The folder of the socket: in the data folder, or, if that path is too long for a socket, in the
/// temporary folder, under a name that is the same for each run.
fn socket_dir(data_dir: &Path) -> PathBuf {
    let in_data_dir = data_dir.join("socket");
    if in_data_dir.as_os_str().len() <= MAX_SOCKET_DIR_BYTES {
        return in_data_dir;
    }
    let hash = fnv1a(data_dir.as_os_str().as_encoded_bytes());
    env::temp_dir().join(format!("event-piper-{hash:016x}"))
}

/// The FNV-1a hash. Unlike the hashes of the standard library, it is the same in every release.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn random_password() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

pub(super) fn file_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> EmbeddedError {
    let path = path.to_owned();
    move |source| EmbeddedError::File { doing, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_in_the_data_folder_unless_the_path_is_too_long() {
        assert_eq!(socket_dir(Path::new("/srv/events")), Path::new("/srv/events/socket"));
        let long = socket_dir(&Path::new("/srv").join("x".repeat(100)));
        assert!(long.starts_with(env::temp_dir()), "{}", long.display());
    }

    #[test]
    fn passwords_are_long_and_unique() {
        let (one, two) = (random_password().unwrap(), random_password().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
    }
}
