//! The log's own types as they travel from PostgreSQL.

use std::error::Error;

use tokio_postgres::types::{FromSql, Type, accepts};

/// `jsonb` as it travels: a version, and the text.
pub(super) struct Json<'a>(pub(super) &'a [u8]);

impl<'a> FromSql<'a> for Json<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        match raw {
            [1, text @ ..] => Ok(Self(text)),
            _ => Err("a version of jsonb that is not known".into()),
        }
    }

    accepts!(JSONB);
}
