//! Types of the log in PostgreSQL's binary format.

use std::error::Error;

use tokio_postgres::types::{FromSql, Type, accepts};

/// The binary format of `jsonb`: a version, and the text.
pub(super) struct Json<'a>(pub(super) &'a [u8]);

impl<'a> FromSql<'a> for Json<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        match raw {
            [1, text @ ..] => Ok(Self(text)),
            _ => Err("unknown version of jsonb".into()),
        }
    }

    accepts!(JSONB);
}
