//! Who events are for.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use crate::event::name::{self, InvalidName};

/// The name of a consumer: not empty, at most [`ConsumerId::MAX_BYTES`], one line.
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId(Arc<str>);

/// Why a text is no consumer's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the consumer's name {0}")]
pub struct InvalidConsumer(pub InvalidName);

impl ConsumerId {
    /// The longest name, in bytes of UTF-8.
    pub const MAX_BYTES: usize = name::MOST_BYTES;

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

    /// Nothing but white space is nothing.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let said = if name.trim().is_empty() { "" } else { name };
        name::check(said).map(|()| Self(said.into())).map_err(InvalidConsumer)
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
        let refused = |name: &str| name.parse::<ConsumerId>().unwrap_err().0;
        assert_eq!((refused(""), refused(" ")), (InvalidName::Empty, InvalidName::Empty));
        assert_eq!(refused("a\nb"), InvalidName::Control);
        assert_eq!(refused(&"x".repeat(1025)), InvalidName::TooLong);
    }
}
