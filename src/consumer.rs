//! Who events are for.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// The name of a consumer: not empty, at most [`ConsumerId::MAX_BYTES`], one line.
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId(Arc<str>);

/// Why a text is no consumer's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConsumer {
    /// Nothing, or nothing but white space.
    #[error("the consumer's name is empty")]
    Empty,
    /// More than [`ConsumerId::MAX_BYTES`].
    #[error("the consumer's name is longer than {} bytes", ConsumerId::MAX_BYTES)]
    TooLong,
    /// A line break, a tab, a NUL: such a name could forge a line in a frame or a log.
    #[error("the consumer's name contains a control character")]
    Control,
}

impl ConsumerId {
    /// The longest name, in bytes of UTF-8: an index row has to hold it.
    pub const MAX_BYTES: usize = 1024;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a row that is in the table already. Rows of the predecessor may bear
    /// names that would not be accepted today; they match nobody, and harm nobody.
    #[must_use]
    pub fn logged(name: &str) -> Self {
        Self(name.into())
    }
}

impl FromStr for ConsumerId {
    type Err = InvalidConsumer;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name.trim().is_empty() {
            Err(InvalidConsumer::Empty)
        } else if name.len() > Self::MAX_BYTES {
            Err(InvalidConsumer::TooLong)
        } else if name.chars().any(char::is_control) {
            Err(InvalidConsumer::Control)
        } else {
            Ok(Self(name.into()))
        }
    }
}

impl fmt::Display for ConsumerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Borrow<str> for ConsumerId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_line_that_says_something() {
        assert_eq!("toto".parse::<ConsumerId>().unwrap().as_str(), "toto");
        assert!("Żółć 日本 👋".parse::<ConsumerId>().is_ok());
        assert_eq!("".parse::<ConsumerId>(), Err(InvalidConsumer::Empty));
        assert_eq!(" ".parse::<ConsumerId>(), Err(InvalidConsumer::Empty));
        assert_eq!("a\nb".parse::<ConsumerId>(), Err(InvalidConsumer::Control));
        assert_eq!("x".repeat(1025).parse::<ConsumerId>(), Err(InvalidConsumer::TooLong));
    }
}
