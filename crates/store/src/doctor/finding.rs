//! What an examination finds.

/// What one examination found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was examined.
    pub subject: &'static str,
    /// What is the case.
    pub found: String,
    /// What to do about it; empty when all is well.
    pub mend: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// All is well.
    Ok,
    /// Events arrive, but something will hurt.
    Warning,
    /// Events get lost, or do not arrive.
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

/// An examination can fail by itself; that is a finding, too.
pub(super) type Examined = Result<Finding, tokio_postgres::Error>;
