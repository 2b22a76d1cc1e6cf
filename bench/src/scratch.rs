//! A temporary folder, and the processes that must not outlive this one.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context;

/// Waits until this process has ended, in whatever way, then ends what it left behind.
const CLEAN_UP: &str = r#"
cat >/dev/null
for pid in "$1"/pids/*; do
    [ -f "$pid" ] && kill -QUIT "${pid##*/}" 2>/dev/null
done
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$1" && break
    sleep 1
done
"#;

/// See the module; every account may pass through the folder.
pub(crate) struct Scratch {
    path: PathBuf,
    guard: Child,
}

impl Scratch {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("ep-bench-{:08x}", fastrand::u32(..)));
        fs::create_dir_all(path.join("pids")).context("creating a temporary folder")?;
        let mut guard = Command::new("sh");
        guard.args(["-c", CLEAN_UP, "sh"]).arg(&path).stdin(Stdio::piped());
        guard.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let guard = guard.spawn().context("running sh")?;
        Ok(Self { path, guard })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The note that names a process which ends with us.
    pub(crate) fn note(&self, pid: u32) -> anyhow::Result<PathBuf> {
        let note = self.path.join("pids").join(pid.to_string());
        fs::write(&note, "")?;
        Ok(note)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
