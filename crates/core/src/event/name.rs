//! What a name is: an event's type, the stream that it is of, and who it is for.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// The longest name, in bytes of UTF-8: an index row has to hold it.
pub const MOST_BYTES: usize = 1024;

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing.
    #[error("is empty")]
    Empty,
    /// More than an index row holds.
    #[error("is longer than {MOST_BYTES} bytes")]
    TooLong,
    /// A line break, a tab, a NUL: such a name could forge a line in a frame or a log.
    #[error("contains a control character")]
    Control,
    /// A type that begins with `$`.
    #[error("begins with $: such types are the gateway's own")]
    Reserved,
}

/// An event's type: one line, and none of the gateway's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind(Box<str>);

/// A stream's name: one line. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(Arc<str>);

impl Kind {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Kind {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name.starts_with('$') {
            return Err(InvalidName::Reserved);
        }
        check(name).map(|()| Self(name.into()))
    }
}

impl StreamName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a row that is in the table already.
    #[must_use]
    pub fn logged(name: &str) -> Self {
        Self(name.into())
    }
}

impl FromStr for StreamName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        check(name).map(|()| Self(name.into()))
    }
}

impl Borrow<str> for StreamName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether this is one line that says something, and not too long.
pub fn check(name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        Err(InvalidName::Empty)
    } else if name.len() > MOST_BYTES {
        Err(InvalidName::TooLong)
    } else if name.chars().any(char::is_control) {
        Err(InvalidName::Control)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_line_and_a_type_is_not_the_gateways() {
        assert!("orders/1 Żółć".parse::<StreamName>().is_ok());
        assert!("$x".parse::<StreamName>().is_ok(), "only types are reserved");
        assert_eq!("$x".parse::<Kind>(), Err(InvalidName::Reserved));
        for (wrong, why) in [
            (String::new(), InvalidName::Empty),
            ("a\nb".into(), InvalidName::Control),
            ("a\u{85}b".into(), InvalidName::Control),
            ("x".repeat(1025), InvalidName::TooLong),
        ] {
            assert_eq!(wrong.parse::<Kind>(), Err(why));
            assert_eq!(wrong.parse::<StreamName>(), Err(why));
        }
    }
}
