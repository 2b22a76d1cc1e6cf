//! A folder for one test. It is removed after the test, and every PostgreSQL in it is stopped.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A shell script that cleans up when its standard input closes: after the test, or when the process ends.
const CLEAN_UP: &str = r#"
cat >/dev/null
for note in "$1"/*/cluster/postmaster.pid; do
    [ -f "$note" ] && kill -QUIT "$(head -n 1 "$note")"
done
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$1" && break
    sleep 1
done
"#;

/// A temporary folder, which all users can traverse.
pub(crate) struct Scratch {
    path: PathBuf,
    guard: Child,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let path = env::temp_dir().join(format!("ep-test-{:08x}", fastrand::u32(..)));
        fs::create_dir(&path).unwrap();
        let mut guard = Command::new("sh");
        guard.args(["-c", CLEAN_UP, "sh"]).arg(&path).stdin(Stdio::piped());
        guard.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Self { path, guard: guard.spawn().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
