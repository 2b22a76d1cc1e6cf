//! A temporary folder, and the cleanup of processes that must not outlive this one.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context;
use nix::sys::statvfs::statvfs;

/// A shell script that waits until this process has ended, then kills the processes that are left, and removes
/// the folders. Its standard input closes when this process ends for any reason.
const CLEAN_UP: &str = r#"
cat >/dev/null
for pid in "$1"/pids/*; do
    [ -f "$pid" ] && kill -QUIT "${pid##*/}" 2>/dev/null
done
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$@" && break
    sleep 1
done
"#;

/// A temporary folder, which users other than this one can traverse. It is removed when the value is dropped.
pub(crate) struct Scratch {
    path: PathBuf,
    /// A folder in memory, if the system has one with enough space.
    memory: Option<PathBuf>,
    guard: Child,
}

/// The file system in memory on Linux.
const IN_MEMORY: &str = "/dev/shm";
/// The free space that a database needs that is written to at the maximum rate.
const MIN_FREE_BYTES: u64 = 8 << 30;

impl Scratch {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let name = format!("ep-bench-{:08x}", fastrand::u32(..));
        let path = std::env::temp_dir().join(&name);
        let memory = in_memory(&name);
        fs::create_dir_all(path.join("pids")).context("creating a temporary folder")?;
        let mut guard = Command::new("sh");
        guard.args(["-c", CLEAN_UP, "sh"]).arg(&path).args(&memory).stdin(Stdio::piped());
        guard.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let guard = guard.spawn().context("running sh")?;
        Ok(Self { path, memory, guard })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn memory(&self) -> Option<&Path> {
        self.memory.as_deref()
    }

    /// Creates the note that makes the cleanup kill this process.
    pub(crate) fn note(&self, pid: u32) -> anyhow::Result<PathBuf> {
        let note = self.path.join("pids").join(pid.to_string());
        fs::write(&note, "")?;
        Ok(note)
    }
}

fn in_memory(name: &str) -> Option<PathBuf> {
    let free = statvfs(IN_MEMORY).ok().map(|it| it.blocks_available() * it.fragment_size())?;
    let path = Path::new(IN_MEMORY).join(name);
    (free >= MIN_FREE_BYTES && fs::create_dir(&path).is_ok()).then_some(path)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
