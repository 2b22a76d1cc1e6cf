//! Simulates a full or slow disk for PostgreSQL, with the library `disk.c`.

use std::{fs, path::Path, process::Command, time::Duration};

/// Controls the disk through files in a folder.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    folder: Box<Path>,
}

impl Disk {
    /// Builds the library in this folder of the server.
    pub(crate) fn build(folder: &Path) -> Self {
        let (source, library) = (folder.join("disk.c"), folder.join("disk.so"));
        fs::write(&source, include_str!("disk.c")).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-w", "-o"]).arg(&library).arg(&source).arg("-ldl");
        assert!(cc.status().expect("a C compiler, as Rust needs one").success(), "disk.c");
        Self { folder: folder.into() }
    }

    /// Loads the library into a command and its children.
    pub(crate) fn under(&self, command: &mut Command) {
        command.env("LD_PRELOAD", self.folder.join("disk.so")).env("DISK", &*self.folder);
    }

    /// Makes the disk full, or ends that.
    pub(crate) fn set_full(&self, full: bool) {
        self.tell("full", full.then(String::new));
    }

    /// Makes each write take this much longer; `None` ends that.
    pub(crate) fn set_slow(&self, longer: Option<Duration>) {
        self.tell("slow", longer.map(|longer| longer.as_millis().to_string()));
    }

    fn tell(&self, what: &str, how: Option<String>) {
        let path = self.folder.join(what);
        match how {
            Some(how) => fs::write(path, how).unwrap(),
            None => drop(fs::remove_file(path)),
        }
    }
}
