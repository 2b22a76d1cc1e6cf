//! The description of the machine and the versions in a report.

use std::{fs, process::Command, thread::available_parallelism};

use crate::{
    postgres::{Flush, Postgres},
    scratch::Scratch,
};

/// The head of a report.
pub(crate) fn described(scratch: &Scratch, quick: bool) -> anyhow::Result<String> {
    let cores = available_parallelism()?;
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_default();
    let kernel = said("uname", &["-sr"]);
    let postgres = Postgres::start(scratch, Flush::AsItIs)?.version()?;
    let lines = [
        "## Figures".to_owned(),
        String::new(),
        format!("- machine: {cores} cores ({processor}), {memory} of memory, {kernel}"),
        format!(
            "- PostgreSQL {postgres}; {}; {}",
            said("nginx", &["-v"]),
            said("pushpin", &["--version"])
        ),
        format!("- Node.js {}; {}", said("node", &["--version"]), said("rustc", &["--version"])),
        format!("- EventPiper {}", said("git", &["describe", "--always", "--dirty"])),
        format!("- {}", if quick { "QUICK=1" } else { "full length" }),
        "- figures are the median of several rounds, with minimum and maximum in brackets"
            .to_owned(),
        String::new(),
    ];
    Ok(lines.join("\n"))
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The first line that a program prints, on standard output or standard error.
fn said(program: &str, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).output() else {
        return format!("no {program}");
    };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}
