//! `event-piper doctor`: checks everything that delivery depends on.

use std::process::ExitCode;

use super::output;
use crate::store::{
    doctor::{Finding, Severity, examine},
    server::Server,
};

/// Prints one line for each finding, and the remedy below it. The exit code is 1 if a finding is fatal.
/// `mend` completes the commands in a remedy, so that they work as printed.
pub(super) async fn run(
    server: &Server,
    mend: &dyn Fn(&str) -> String,
) -> anyhow::Result<ExitCode> {
    let findings = examine(server).await;
    for finding in &findings {
        output::line(render(finding, mend))?;
    }
    let fatal = findings.iter().any(|finding| finding.severity == Severity::Fatal);
    Ok(if fatal { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn render(finding: &Finding, of: &dyn Fn(&str) -> String) -> String {
    let severity = match finding.severity {
        Severity::Ok => "ok",
        Severity::Warning => "WARNING",
        Severity::Fatal => "FATAL",
    };
    let Finding { subject, found, mend, .. } = finding;
    let line = format!("{severity:<8}{subject:<20}{found}");
    if mend.is_empty() { line } else { format!("{line}\n{:28}-> {}", "", of(mend)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_is_printed_below_its_finding() {
        let finding = Finding {
            severity: Severity::Fatal,
            subject: "doorbell",
            found: "the trigger is disabled".to_owned(),
            mend: "enable it".to_owned(),
        };
        let expected = "FATAL   doorbell            the trigger is disabled\n                            -> enable it";
        assert_eq!(render(&finding, &str::to_owned), expected);
    }
}
