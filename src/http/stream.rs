//! Parts that reads and writes of a stream share: parsing its name and versions, and looking up its last
//! version.

use tracing::warn;

use super::{app::App, error::Problem};
use crate::{
    access::principal::Principal,
    event::name::{InvalidName, StreamName},
    store::{error::ErrorChain, history::HistoryError},
};

/// The size at which a page is cut, which bounds its memory. The next page continues there.
pub(super) const PAGE_BYTES: i64 = 4 << 20;

pub(super) fn stream_name(name: &str) -> Result<StreamName, Problem> {
    name.parse().map_err(|invalid: InvalidName| {
        Problem::bad_request(format!("the stream's name {invalid}"))
    })
}

pub(super) fn version_number(text: &str) -> Result<i64, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let version = text.parse().ok().filter(|version| digits && *version >= 1);
    version.ok_or_else(|| {
        Problem::bad_request(format!("{text:?} is not a version: versions count from 1"))
    })
}

/// The stream's last version. 0: it has no events.
pub(super) async fn last_version(
    app: &App,
    who: &Principal,
    stream: &StreamName,
) -> Result<i64, Problem> {
    let history = app.gateway.read().history_for(who.name());
    history.last_version(stream).await.map_err(|error| failed(&error, stream))
}

pub(super) fn failed(error: &HistoryError, stream: &StreamName) -> Problem {
    warn!(error = %ErrorChain(error), %stream, "reading a stream failed");
    Problem::unavailable("PostgreSQL is not available at present; try again")
}
