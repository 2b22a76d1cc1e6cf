//! Who may write, and read what is not one consumer's alone. Until there are rights: anybody in
//! the open mode, and nobody elsewhere.

use axum::http::{HeaderMap, header};

use super::{App, Auth, cors, error::Problem};
use crate::gateway::writer::Writer;

/// What writes, for one who may write.
pub(super) fn write<'a>(app: &'a App, headers: &HeaderMap) -> Result<&'a Writer, Problem> {
    let writer = app.gateway.writer();
    let writer = writer.ok_or_else(|| Problem::forbidden("writing is switched off (--writing)"))?;
    open(app, "write")?;
    from_a_page_of_ours(app, headers)?;
    Ok(writer)
}

/// Whether one may read a stream.
pub(super) fn stream(app: &App) -> Result<(), Problem> {
    open(app, "read streams")
}

/// Whether one may read everything.
pub(super) fn all(app: &App) -> Result<(), Problem> {
    open(app, "read everything")
}

fn open(app: &App, what: &str) -> Result<(), Problem> {
    match app.settings.auth {
        Auth::Open => Ok(()),
        Auth::TrustedHeader => Err(Problem::forbidden(format!(
            "nobody may {what} here: --auth trusted-header says who reads which consumer's \
             events, and no more"
        ))),
    }
}

/// A page of somebody else's can make a browser send a form anywhere. Browsers say where such
/// a request comes from; what is no browser says nothing.
fn from_a_page_of_ours(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    if cors::allows(&app.settings, origin) {
        return Ok(());
    }
    let origin = String::from_utf8_lossy(origin.as_bytes());
    Err(Problem::forbidden(format!(
        "pages of {origin} may not write here: list that origin in --cors-origins if they shall"
    )))
}
