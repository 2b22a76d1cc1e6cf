//! The findings of an examination.

/// The result of one examination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The severity.
    pub severity: Severity,
    /// The subject of the examination.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// What to do about it. Empty if all is well.
    pub mend: String,
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// All is well.
    Ok,
    /// Events arrive, but there is a problem.
    Warning,
    /// Events can be lost, or do not arrive.
    Fatal,
}

impl Finding {
    pub(super) fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self { severity: Severity::Ok, subject, found: found.into(), mend: String::new() }
    }

    pub(super) fn warning(
        subject: &'static str,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, subject, found: found.into(), mend: mend.into() }
    }

    pub(super) fn fatal(
        subject: &'static str,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Fatal, subject, found: found.into(), mend: mend.into() }
    }
}

/// The result of an examination. An examination that fails is a finding, too.
pub(super) type Examined = Result<Finding, tokio_postgres::Error>;
