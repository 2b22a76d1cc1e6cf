//! Where PostgreSQL's server programs (`initdb`, `postgres`) are on this machine.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest PostgreSQL that the schema works on.
pub const OLDEST_MAJOR: u32 = 13;

/// Where packages put them: a folder pattern whose one `*` is a version.
const KNOWN_PLACES: [&str; 9] = [
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

/// A folder with PostgreSQL's server programs, of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// The folder that holds `initdb` and `postgres`.
    pub dir: PathBuf,
    /// PostgreSQL's major version.
    pub major: u32,
}

impl Binaries {
    /// Looks in the folder that was named, else in `PATH` and where packages put them; the
    /// first that fits wins, and within one place the highest version.
    ///
    /// A data folder can be opened by its own major version only, hence `wanted_major`.
    pub fn find(setting: Option<&Path>, wanted_major: Option<u32>) -> Result<Self, NotFound> {
        let places = setting.map_or_else(places, |dir| vec![dir.to_owned()]);
        let found: Vec<_> = places.iter().filter_map(|dir| Self::at(dir)).collect();
        let fits = |it: &&Self| match wanted_major {
            Some(major) => it.major == major,
            None => it.major >= OLDEST_MAJOR,
        };
        found.iter().find(fits).cloned().ok_or(NotFound {
            named: setting.is_some(),
            wanted_major,
            other_majors: found.iter().map(|it| it.major).collect(),
            looked_in: places,
        })
    }

    /// The programs in this folder, if it has both of them and they run.
    fn at(dir: &Path) -> Option<Self> {
        let dir = dir.canonicalize().ok()?;
        let major = major_version(&dir.join("postgres"))?;
        dir.join("initdb").is_file().then_some(Self { dir, major })
    }

    /// The path of one of PostgreSQL's programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Every folder worth a look, in the order of preference.
fn places() -> Vec<PathBuf> {
    let mut places: Vec<_> = on_path().into_iter().chain(own_copy()).collect();
    places.extend(KNOWN_PLACES.into_iter().flat_map(expand));
    let mut seen = std::collections::HashSet::new();
    places.retain(|dir| seen.insert(dir.clone()));
    places
}

/// The folder of the `postgres` that a shell would run. Links are followed to the real one,
/// because packagers link single programs into `PATH`, not always both.
fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let postgres = env::split_paths(&path).find_map(|dir| dir.join("postgres").canonicalize().ok());
    postgres?.parent().map(Path::to_owned)
}

/// Where `scripts/ensure-postgres` unpacks PostgreSQL for a user who may not install it.
fn own_copy() -> Option<PathBuf> {
    let data = env::var_os("XDG_DATA_HOME").filter(|it| !it.is_empty()).map(PathBuf::from);
    let data = data.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".local/share")))?;
    Some(data.join("event-piper/postgresql/bin"))
}

/// The folders that a pattern with at most one `*` stands for, the highest version first.
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

/// Asks the program itself: `postgres (PostgreSQL) 17.2 (Debian 17.2-1)`.
fn major_version(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres).arg("--version").current_dir("/").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    leading_number(text.split_once("(PostgreSQL) ")?.1)
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// No fitting server programs; says where it looked, and what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub struct NotFound {
    named: bool,
    wanted_major: Option<u32>,
    other_majors: Vec<u32>,
    looked_in: Vec<PathBuf>,
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
            write!(f, " (there is {})", majors.join(", "))?;
        }
        let places: Vec<_> = self.looked_in.iter().map(|it| it.display().to_string()).collect();
        write!(f, ", looked in {}: install PostgreSQL {version}, ", places.join(", "))?;
        let which = if self.named { "another" } else { "their" };
        write!(f, "name {which} folder with --postgres-bin, or name a running server with ")?;
        f.write_str("--database-url")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_programs_print() {
        assert_eq!(leading_number("17.2 (Debian 17.2-1)"), Some(17));
        assert_eq!(leading_number("18beta1"), Some(18));
        assert_eq!(leading_number("devel"), None);
    }

    #[test]
    fn a_folder_without_the_programs_is_refused_by_name() {
        let error = Binaries::find(Some(Path::new("/nowhere/at/all")), Some(99)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/nowhere/at/all") && text.contains("PostgreSQL 99"), "{text}");
        assert!(text.contains("another folder with --postgres-bin"), "{text}");
    }
}
