//! Consumers: who events are for.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use crate::event::name::{self, InvalidName};

/// The name of a consumer: one line, not blank, at most [`ConsumerId::MAX_BYTES`].
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId(Arc<str>);

/// A text is not a valid name of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the consumer's name {0}")]
pub struct InvalidConsumer(pub InvalidName);

impl ConsumerId {
    /// The greatest length of a name, in bytes of UTF-8.
    pub const MAX_BYTES: usize = name::MAX_NAME_BYTES;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in a row that is in the table already. Rows of the predecessor may have
    /// names that are not valid today. They match no subscription, and do no harm.
    #[must_use]
    pub fn logged(name: &str) -> Self {
        Self(name.into())
    }
}

impl FromStr for ConsumerId {
    type Err = InvalidConsumer;

    /// White space alone counts as empty.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let name = if name.trim().is_empty() { "" } else { name };
        name::check(name).map(|()| Self(name.into())).map_err(InvalidConsumer)
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
    fn a_name_is_one_line_and_not_blank() {
        assert_eq!("toto".parse::<ConsumerId>().unwrap().as_str(), "toto");
        assert!("Żółć 日本 👋".parse::<ConsumerId>().is_ok());
        let refused = |name: &str| name.parse::<ConsumerId>().unwrap_err().0;
        assert_eq!((refused(""), refused(" ")), (InvalidName::Empty, InvalidName::Empty));
        assert_eq!(refused("a\nb"), InvalidName::Control);
        assert_eq!(refused(&"x".repeat(1025)), InvalidName::TooLong);
    }
}
