//! The one way by which events are written, whatever form they came in.

use super::amendment;
use crate::{
    access::principal::Principal,
    event::draft::Draft,
    http::{app::App, error::Problem},
    store::append::Written,
    write::{Refusal, Writer},
};

/// Writes events whose rights and rates have been checked. All requests that write, in any format, end here.
/// A problem comes with the index of the draft that it is about, if it is about one.
pub(super) async fn accept(
    app: &App,
    who: &Principal,
    writer: &Writer,
    drafts: Vec<Draft>,
) -> Result<Vec<Written>, (Option<usize>, Problem)> {
    let checked = amendment::check(app, who, &drafts).await;
    checked.map_err(|(at, problem)| (Some(at), problem))?;
    let amended = drafts.iter().find_map(|draft| draft.amends).unwrap_or_default();
    writer.append(drafts).await.map_err(|refusal| {
        let is_misfit = matches!(refusal, Refusal::Misfit(_));
        let problem = Problem::from(refusal);
        (
            None,
            if is_misfit {
                amendment::conceal_unless_readable(who, amended, problem)
            } else {
                problem
            },
        )
    })
}
