//! Examines a database: whether every event will arrive, and if not, what to do about it.

mod finding;
mod log;
mod rights;
mod session;
mod system;

use tokio_postgres::Client;

use self::finding::Examined;
pub use self::finding::{Finding, Severity};
use crate::{
    error::ErrorChain,
    server::Server,
    session::{Purpose, settle},
    shape::{self, NoLog},
};

/// Examines everything that delivery depends on, with the rights of the gateway. Changes nothing, and never fails:
/// a database that cannot be reached is a finding.
pub async fn examine(server: &Server) -> Vec<Finding> {
    let client = match server.named("event-piper doctor").unsettled().await {
        Ok(client) => client,
        Err(error) => return vec![unreachable(server, &error)],
    };
    // Asked first, because `settle` replaces the role's own settings.
    let bell = judge("doorbell setting", session::bell(&client).await);
    // The settings of a session that a pooler lends to others are left alone.
    let own = session::session(server).await;
    if own.as_ref().is_ok_and(|own| own.severity == Severity::Ok)
        && let Err(error) = settle(&client, Purpose::Read).await
    {
        return vec![unreachable(server, &error)];
    }
    let mut findings = vec![
        judge("server", system::server(&client, server).await),
        judge("schema", system::schema(&client).await),
        judge("session", own),
        judge("settings", session::settings(&client).await),
        bell,
        judge("connections", system::connections(&client).await),
        judge("notification queue", system::notification_queue(&client).await),
    ];
    findings.extend(examine_log(&client).await);
    findings
}

/// Returns the fatal findings among those whose subject can lose events unnoticed: the doorbell's trigger, how ids
/// are drawn, and whether the role sees every row.
pub async fn unsafe_findings(client: &Client) -> Result<Vec<Finding>, tokio_postgres::Error> {
    let (doorbell, ids) = (log::doorbell(client).await?, log::ids(client).await?);
    let all = [doorbell, ids, log::row_security(client).await?];
    Ok(all.into_iter().filter(|finding| finding.severity == Severity::Fatal).collect())
}

async fn examine_log(client: &Client) -> Vec<Finding> {
    match shape::find(client).await {
        Ok(()) => {}
        Err(NoLog::Query(error)) => return vec![judge("table", Err(error))],
        Err(none) => return vec![log::missing(&none)],
    }
    vec![
        judge("rights", log::rights(client).await),
        judge("row security", log::row_security(client).await),
        judge("doorbell", log::doorbell(client).await),
        judge("ids", log::ids(client).await),
        judge("sequence", log::sequence(client).await),
        judge("origin of rows", log::origin(client).await),
        judge("rows", log::well_formed(client).await),
        judge("append-only", log::append_only(client).await),
        judge("owner's rights", rights::owners_rights(client).await),
        judge("grants", rights::grants(client).await),
        judge("schema's rights", rights::schema(client).await),
        judge("amendments", rights::amendments(client).await),
        judge("locks", rights::locks(client).await),
        judge("memory of pruning", log::pruned(client).await),
        judge("other triggers", log::other_triggers(client).await),
        judge("other ways in", log::other_ways_in(client).await),
        judge("rules", log::rules(client).await),
    ]
}

fn unreachable(server: &Server, error: &tokio_postgres::Error) -> Finding {
    Finding::fatal(
        "server",
        format!("{server} cannot be reached: {}", ErrorChain(error)),
        "Start it, or correct the database URL.",
    )
}

fn judge(subject: &'static str, examined: Examined) -> Finding {
    examined.unwrap_or_else(|error| {
        Finding::warning(
            subject,
            format!("could not be examined: {}", ErrorChain(&error)),
            "Run doctor with the gateway's role, which needs the rights of postgresql/roles.sql.",
        )
    })
}
