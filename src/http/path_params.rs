//! An extractor of path parameters, whose rejection is a [`Problem`].

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::error::Problem;

/// The parameters of the route's path, percent-decoded.
pub(super) struct PathParams<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = Path::from_request_parts(parts, state).await;
        params
            .map(|Path(params)| Self(params))
            .map_err(|_| Problem::bad_request("the path is not UTF-8 in percent-encoding"))
    }
}
