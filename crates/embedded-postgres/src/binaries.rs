//! Finds PostgreSQL's server programs (`initdb`, `postgres`) on this machine.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest major version of PostgreSQL that is supported.
pub const OLDEST_MAJOR: u32 = 13;

/// The folders in which packages install the programs. A `*` stands for a version.
const KNOWN_FOLDERS: [&str; 9] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/usr/libexec/postgresql*",
    "/usr/local/pgsql/bin",
    "/usr/bin",
];

/// A folder with the server programs of one version of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// The folder that contains `initdb` and `postgres`.
    pub dir: PathBuf,
    /// PostgreSQL's major version.
    pub major: u32,
}

impl Binaries {
    /// Searches the folder of the setting, or else `PATH` and the folders in which packages install the
    /// programs. Returns the first that has a suitable version; within one pattern, the highest version.
    ///
    /// `wanted_major` is the version of an existing cluster, which only its own major version can open.
    ///
    /// # Errors
    /// If no suitable version was found.
    pub fn find(setting: Option<&Path>, wanted_major: Option<u32>) -> Result<Self, NotFound> {
        let folders = setting.map_or_else(folders, |dir| vec![dir.to_owned()]);
        let found: Vec<_> = folders.iter().filter_map(|dir| Self::at(dir)).collect();
        let fits = |it: &&Self| match wanted_major {
            Some(major) => it.major == major,
            None => it.major >= OLDEST_MAJOR,
        };
        found.iter().find(fits).cloned().ok_or(NotFound {
            is_setting: setting.is_some(),
            wanted_major,
            other_majors: found.iter().map(|it| it.major).collect(),
            searched: folders,
        })
    }

    /// The programs in this folder, if both exist and `postgres` runs.
    fn at(dir: &Path) -> Option<Self> {
        let dir = dir.canonicalize().ok()?;
        let major = major_version(&dir.join("postgres"))?;
        dir.join("initdb").is_file().then_some(Self { dir, major })
    }

    /// The path of a program of PostgreSQL.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// All folders to search, in order of preference.
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<_> = on_path().into_iter().chain(unpacked_by_script()).collect();
    folders.extend(KNOWN_FOLDERS.into_iter().flat_map(expand));
    let mut seen = std::collections::HashSet::new();
    folders.retain(|dir| seen.insert(dir.clone()));
    folders
}

/// The folder of the `postgres` that a shell would run. Links are resolved, because packages
/// may link only some of the programs into `PATH`.
fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let postgres = env::split_paths(&path).find_map(|dir| dir.join("postgres").canonicalize().ok());
    postgres?.parent().map(Path::to_owned)
}

/// The folder into which `scripts/ensure-postgres` unpacks PostgreSQL for a user who may not install packages.
fn unpacked_by_script() -> Option<PathBuf> {
    let data = env::var_os("XDG_DATA_HOME").filter(|it| !it.is_empty()).map(PathBuf::from);
    let data = data.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".local/share")))?;
    Some(data.join("event-piper/postgresql/bin"))
}

/// The folders that match a pattern with at most one `*`, the highest version first.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![pattern.into()] };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("/", before));
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = leading_number(name.strip_prefix(prefix)?).unwrap_or(0);
            Some((version, PathBuf::from(format!("{parent}/{name}{after}"))))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, dir)| dir).collect()
}

/// Parses the output of `postgres --version`, such as `postgres (PostgreSQL) 17.2 (Debian 17.2-1)`.
fn major_version(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres).arg("--version").current_dir("/").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    leading_number(text.split_once("(PostgreSQL) ")?.1)
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// No suitable server programs were found. The message lists the searched folders, and says what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub struct NotFound {
    /// Whether only the folder of the setting was searched.
    is_setting: bool,
    wanted_major: Option<u32>,
    other_majors: Vec<u32>,
    searched: Vec<PathBuf>,
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.wanted_major {
            Some(major) => format!("{major}"),
            None => format!("{OLDEST_MAJOR} or later"),
        };
        write!(f, "the server programs (initdb, postgres) of PostgreSQL {version} were not found")?;
        if !self.other_majors.is_empty() {
            let majors: Vec<_> = self.other_majors.iter().map(u32::to_string).collect();
            write!(f, " (found version {})", majors.join(", "))?;
        }
        let folders: Vec<_> = self.searched.iter().map(|it| it.display().to_string()).collect();
        write!(f, "; searched {}. Install PostgreSQL {version}, ", folders.join(", "))?;
        let which = if self.is_setting { "another" } else { "their" };
        write!(f, "set {which} folder with --postgres-bin, or use a running server with ")?;
        f.write_str("--database-url")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_leading_number_of_a_version() {
        assert_eq!(leading_number("17.2 (Debian 17.2-1)"), Some(17));
        assert_eq!(leading_number("18beta1"), Some(18));
        assert_eq!(leading_number("devel"), None);
    }

    #[test]
    fn the_error_names_the_folder_without_the_programs() {
        let error = Binaries::find(Some(Path::new("/nowhere/at/all")), Some(99)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/nowhere/at/all") && text.contains("PostgreSQL 99"), "{text}");
        assert!(text.contains("another folder with --postgres-bin"), "{text}");
    }
}
