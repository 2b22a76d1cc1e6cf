//! A measured server process: start, readiness, stop, and its cost.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    process::{Child, Command},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, SysconfVar, sysconf},
};

use crate::scratch::Scratch;

/// After this time, a process that was asked to stop is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// A process with all its children. It is stopped when the value is dropped.
pub(crate) struct Program {
    child: Child,
    name: String,
    stop_signal: Signal,
    note: PathBuf,
}

impl Program {
    /// Starts the command. `stop_signal` is the signal that asks the process to exit.
    pub(crate) fn start(
        scratch: &Scratch,
        command: &mut Command,
        stop_signal: Signal,
    ) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("running {name}"))?;
        let note = scratch.note(child.id())?;
        Ok(Self { child, name, stop_signal, note })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `done` returns true.
    ///
    /// # Errors
    /// If the program exits first, or `within` has passed.
    pub(crate) fn wait_until(
        &mut self,
        within: Duration,
        mut done: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        while !done() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} exited: {status}", self.name);
            }
            if start.elapsed() > within {
                bail!("{} was not ready within {} s", self.name, within.as_secs());
            }
            sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// The resources that the process and its children have used so far.
    pub(crate) fn cost(&self) -> Cost {
        Cost::of_tree(self.pid())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.pid().cast_signed());
        let _ = kill(pid, self.stop_signal);
        let start = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if start.elapsed() > STOP_DEADLINE {
                let _ = self.child.kill();
            }
            sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_file(&self.note);
    }
}

/// The resources that a tree of processes has used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// CPU time, user and kernel, including that of children that have exited.
    pub(crate) cpu: Duration,
    /// Memory (PSS), in bytes.
    pub(crate) memory: u64,
    /// The sum of the peak memory of the processes (RSS), in bytes.
    pub(crate) peak: u64,
}

impl Cost {
    /// CPU time since `before`.
    pub(crate) fn cpu_since(&self, before: &Self) -> Duration {
        self.cpu.saturating_sub(before.cpu)
    }

    fn of_tree(root: u32) -> Self {
        let parents = parents();
        let belongs = |mut pid: u32| {
            while pid != root {
                match parents.get(&pid) {
                    Some(parent) => pid = *parent,
                    None => return false,
                }
            }
            true
        };
        let tree = parents.keys().copied().filter(|pid| belongs(*pid));
        tree.fold(Self::default(), |sum, pid| {
            let memory = sum.memory + kib(pid, "smaps_rollup", "Pss:");
            let peak = sum.peak + kib(pid, "status", "VmHWM:");
            Self { cpu: sum.cpu + cpu(pid), memory, peak }
        })
    }
}

fn parents() -> HashMap<u32, u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?))).collect()
}

/// The fields of `/proc/<pid>/stat` after the name: state, parent, ...
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(ToOwned::to_owned).collect())
}

fn cpu(pid: u32) -> Duration {
    let second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    // utime, stime, cutime and cstime are consecutive fields.
    let ticks = stat(pid).map_or(0, |fields| {
        fields.iter().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum()
    });
    Duration::from_millis(ticks * 1000 / second.unsigned_abs())
}

fn kib(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}
