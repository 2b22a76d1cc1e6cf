//! A temporary folder, and the processes that must not outlive this one.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context;
use nix::sys::statvfs::statvfs;

/// Waits until this process has ended, in whatever way, then ends what it left behind.
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

/// See the module; every account may pass through the folder.
pub(crate) struct Scratch {
    path: PathBuf,
    /// The same in memory, where the system has such a folder.
    memory: Option<PathBuf>,
    guard: Child,
}

/// Where Linux has a file system in memory.
const IN_MEMORY: &str = "/dev/shm";
/// Less than this is no room for a database that is written to as fast as it goes.
const ENOUGH: u64 = 8 << 30;

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

    /// The note that names a process which ends with us.
    pub(crate) fn note(&self, pid: u32) -> anyhow::Result<PathBuf> {
        let note = self.path.join("pids").join(pid.to_string());
        fs::write(&note, "")?;
        Ok(note)
    }
}

fn in_memory(name: &str) -> Option<PathBuf> {
    let free = statvfs(IN_MEMORY).ok().map(|it| it.blocks_available() * it.fragment_size())?;
    let path = Path::new(IN_MEMORY).join(name);
    (free >= ENOUGH && fs::create_dir(&path).is_ok()).then_some(path)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
