//! Names: an event's type, its stream, and its consumer.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// The greatest length of a name, in bytes of UTF-8: an index row has to hold it.
pub const MAX_NAME_BYTES: usize = 1024;

/// Why a text is not a valid name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The text is longer than an index row can hold.
    #[error("is longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// The text contains a line break, a tab, a NUL or another control character, which could forge a line in
    /// a frame or a log.
    #[error("contains a control character")]
    Control,
    /// The text begins with `$`, which is reserved in types.
    #[error("begins with $: such types are the gateway's own")]
    Reserved,
}

/// An event's type: one line, and not one of the gateway's own types.
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

    /// The name in a row that is in the table already, which is not checked.
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

/// Checks that a name is not empty, not too long, and one line.
pub fn check(name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        Err(InvalidName::Empty)
    } else if name.len() > MAX_NAME_BYTES {
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
    fn checks_names_and_reserves_dollar_types() {
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
