//! Authentication middleware. It determines the principal of a request before anything else examines the
//! request, and writes the audit log.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::MethodRouter,
};
use tokio::time::sleep;
use tracing::info;

use super::{
    answer::AnswerPermit,
    app::App,
    authorize,
    class::{AnonymousAccess, Class},
    credentials,
    error::{Problem, RefusalRecord},
    event_stream::{RETRY_WHEN_FULL, overloaded},
    send_progress::StillPermitted,
};
use crate::{
    access::{
        Access, Denied, Ending, Missing, NoStream, RetryAfter,
        networks::Peer,
        principal::{Kind, Principal},
    },
    metrics::Reason,
};

/// The log target of the audit log: `--log event_piper::audit=info`.
const AUDIT_TARGET: &str = "event_piper::audit";

/// Adds authentication to routes of a class. Their handlers find a [`Principal`] in the request.
pub(super) fn authenticated(
    app: &Arc<App>,
    class: Class,
    routes: MethodRouter<Arc<App>>,
) -> MethodRouter<Arc<App>> {
    // The outer layer adds the class to the request, where `authenticate` finds it.
    routes
        .route_layer(middleware::from_fn_with_state(Arc::clone(app), authenticate))
        .route_layer(Extension(class))
}

/// Adds a [`Principal`] to the request, or refuses the request.
async fn authenticate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let entry = AuditEntry::of(&app, &request);
    let is_read = request.method().is_safe();
    let response = match admit(&app, &entry, &request).await {
        Ok(who) => {
            entry.note_use(&who);
            request.extensions_mut().insert(who.clone());
            let may = authorize::route(&app, &who, Class::of(&request));
            let response = match may.map(|()| AnswerPermit::acquire(&app, &who, &mut request)) {
                Ok(Ok(permit)) => {
                    let response = next.run(request).await;
                    permit.hold_until_sent(response, permitted(&app, &who))
                }
                Ok(Err(problem)) if entry.stream => entry.stream_overloaded(&problem),
                Err(problem) | Ok(Err(problem)) => problem.into_response(),
            };
            entry.finish(&app, Some(&who), response).await
        }
        Err(Rejection::Refused(problem)) => entry.finish(&app, None, problem.into_response()).await,
        Err(Rejection::RetryLater(wait)) => entry.throttled(&app, wait),
    };
    let mut response = with_challenge(&app, response);
    let status = response.status();
    let cacheable = is_read && (status.is_success() || status == StatusCode::NOT_MODIFIED);
    keep_private(response.headers_mut(), cacheable);
    response
}

/// Marks responses of a public route that show more to some callers than to others.
pub(super) async fn varies_by_caller(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    keep_private(response.headers_mut(), false);
    response
}

/// The request headers that a response depends on. `Accept` selects a page or a stream.
const VARY: &str = "authorization, cookie, x-consumer-id, accept";

/// Forbids shared caches to serve one caller's response to another caller. The caller may cache what it
/// has read, and must revalidate it each time.
fn keep_private(headers: &mut HeaderMap, cacheable: bool) {
    headers.append(header::VARY, HeaderValue::from_static(VARY));
    let policy = if cacheable { "private, no-cache" } else { "no-store" };
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static(policy));
}

/// A check whether the credentials of the principal are still valid. `None` in the open mode.
fn permitted(app: &Arc<App>, who: &Principal) -> Option<StillPermitted> {
    let (app, who) = (Arc::clone(app), who.clone());
    let can_expire = *who.kind() != Kind::Open;
    can_expire.then(|| -> StillPermitted { Box::new(move || app.access.holds(&who).is_ok()) })
}

/// Why a request was not admitted.
enum Rejection {
    Refused(Problem),
    /// A stream that may be admitted later, or a rate limit.
    RetryLater(RetryAfter),
}

/// Determines the principal of the request. The function itself is not `async`, because the future must not
/// hold the request, whose body is not `Sync`.
fn admit<'a>(
    app: &'a App,
    entry: &AuditEntry,
    request: &Request,
) -> impl Future<Output = Result<Principal, Rejection>> + Send + use<'a> {
    let access = &app.access;
    let credentials = credentials::extract(access, request).map_err(Rejection::Refused);
    let anonymous = anonymous(access, entry.peer, request);
    let stream = entry.stream;
    async move {
        let who = match access.authenticate(&credentials?).await {
            Ok(who) => who,
            Err(denied) => match (denied.what, anonymous) {
                (Missing::Credentials, Some(who)) => return Ok(who),
                (Missing::Unavailable, _) if stream => {
                    return Err(Rejection::RetryLater(RETRY_UNVERIFIABLE));
                }
                _ => return Err(Rejection::Refused(Problem::denied(denied))),
            },
        };
        access.request(&who).map_err(Rejection::RetryLater)?;
        Ok(who)
    }
}

/// The principal of a caller without credentials, if the route admits one.
fn anonymous(access: &Access, peer: Peer, request: &Request) -> Option<Principal> {
    let modes = access.modes();
    match Class::of(request).anonymous() {
        AnonymousAccess::Denied => None,
        AnonymousAccess::Allowed => (modes.jwt || modes.keys).then(Principal::anonymous),
        AnonymousAccess::Operators => {
            credentials::is_direct(request).then(|| access.metrics_reader(peer)).flatten()
        }
    }
}

/// Whether the caller may see the metrics, by its address or by its credentials. Bad credentials count as
/// none here, because the route answers every caller.
pub(super) fn may_see_metrics<'a>(
    app: &'a App,
    request: &Request,
) -> impl Future<Output = bool> + Send + use<'a> {
    let access = &app.access;
    let peer = credentials::peer(request);
    let listed = credentials::is_direct(request) && access.metrics_reader(peer).is_some();
    let authenticates = access.modes().is_open()
        || [header::AUTHORIZATION, header::COOKIE]
            .iter()
            .any(|it| request.headers().contains_key(it));
    let credentials = (!listed && authenticates).then(|| credentials::extract(access, request));
    async move {
        let Some(Ok(credentials)) = credentials else { return listed };
        let who = access.authenticate(&credentials).await;
        who.is_ok_and(|who| access.request(&who).is_ok() && who.may_see_metrics().is_ok())
    }
}

/// The retry delay of a stream whose credentials cannot be verified at present, for instance because the
/// issuer's keys cannot be fetched.
const RETRY_UNVERIFIABLE: RetryAfter = RetryAfter(Duration::from_secs(5));

/// Refuses requests for foreign host names. A web page can make its own name resolve to this machine (DNS
/// rebinding).
pub(super) async fn check_host(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let peer = credentials::peer(&request);
    let foreign = credentials::hosts(&request).find(|host| !app.access.answers_to(host, peer));
    let Some(host) = foreign else { return next.run(request).await };
    let response = Problem::misdirected(host).into_response();
    AuditEntry::of(&app, &request).note_refusal(&app, None, &response);
    response
}

/// Registers a stream of the principal, and redeems the ticket that opens it.
///
/// # Errors
/// The response to send instead: a retry if there are too many streams, 401 if the ticket is not valid.
pub(super) fn open_stream(app: &App, who: &Principal) -> Result<Option<Ending>, Box<Response>> {
    let full = || {
        let refused = &app.gateway.metrics().refused;
        refused.get_or_create(&Reason { reason: "streams-of-a-principal" }).inc();
        overloaded(RETRY_WHEN_FULL)
    };
    let opened = app.access.open_stream(who);
    opened.map_err(|no| {
        Box::new(match no {
            NoStream::Full | NoStream::Denied(Denied { what: Missing::Unavailable, .. }) => full(),
            NoStream::Denied(denied) => Problem::denied(denied).into_response(),
        })
    })
}

/// A request as the audit log records it: without its query and headers, which may hold secrets.
struct AuditEntry {
    /// The other end of the connection.
    peer: Peer,
    /// The address of the client, as trusted proxies report it.
    from: Peer,
    method: Method,
    path: String,
    /// The request opens an event stream.
    stream: bool,
}

impl AuditEntry {
    fn of(app: &App, request: &Request) -> Self {
        Self {
            peer: credentials::peer(request),
            from: credentials::origin(&app.access, request),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            stream: Class::of(request).opens_stream(request),
        }
    }

    /// Logs each use of a key or a ticket.
    fn note_use(&self, who: &Principal) {
        let (action, id) = match who.kind() {
            Kind::Key(id) => ("key used", id.to_string()),
            Kind::Ticket { id, .. } => ("ticket shown", id.to_string()),
            _ => return,
        };
        let Self { from, method, path, .. } = self;
        info!(target: AUDIT_TARGET, action, who = &**who.name(), id, %from, %method, path, "audit: {action}");
    }

    /// Logs a refusal, and delays the response to bad credentials. If too many such responses are already
    /// delayed for the client's address, the response is a 429, which does not reveal that they were bad.
    async fn finish(&self, app: &App, who: Option<&Principal>, response: Response) -> Response {
        let refusal = response.extensions().get::<RefusalRecord>();
        let bad = refusal.is_some_and(|refusal| refusal.bad_credentials);
        match if bad { app.access.failed(self.from) } else { Ok(Duration::ZERO) } {
            Ok(wait) => {
                self.note_refusal(app, who, &response);
                // Even `sleep(0)` takes a millisecond in tokio.
                if !wait.is_zero() {
                    sleep(wait).await;
                }
                response
            }
            Err(RetryAfter(wait)) => {
                app.access.note("throttled");
                Problem::too_many(wait).into_response()
            }
        }
    }

    fn note_refusal(&self, app: &App, who: Option<&Principal>, response: &Response) {
        let Some(refusal) = response.extensions().get::<RefusalRecord>() else { return };
        let RefusalRecord { reason, detail, .. } = refusal;
        app.access.note(reason);
        let (name, kind) = who.map_or(("", "nobody"), |who| (&**who.name(), who.kind().as_str()));
        let Self { from, method, path, .. } = self;
        let status = response.status().as_u16();
        info!(
            target: AUDIT_TARGET,
            action = "refused", who = name, kind, %from, %method, path, status, reason, why = detail.as_str(),
            "audit: refused"
        );
    }

    /// Asks the client of a stream to retry, because there is no memory for its response.
    fn stream_overloaded(&self, problem: &Problem) -> Response {
        tracing::debug!(
            path = self.path,
            why = problem.detail(),
            "stream refused; the client will retry"
        );
        overloaded(RETRY_WHEN_FULL)
    }

    /// Responds to an exceeded rate: with a 429, or with a `retry:` for streams, because an `EventSource`
    /// never reconnects after a 429.
    fn throttled(&self, app: &App, RetryAfter(wait): RetryAfter) -> Response {
        app.access.note("throttled");
        if self.stream { overloaded(wait) } else { Problem::too_many(wait).into_response() }
    }
}

/// Adds `WWW-Authenticate` to a 401 (RFC 9110, section 11.6.1).
fn with_challenge(app: &App, mut response: Response) -> Response {
    let modes = app.access.modes();
    if response.status() == 401 && (modes.jwt || modes.keys) {
        let bad = response.extensions().get::<RefusalRecord>();
        let bad = bad.is_some_and(|it| it.bad_credentials);
        let challenge = if bad {
            "Bearer realm=\"event-piper\", error=\"invalid_token\""
        } else {
            "Bearer realm=\"event-piper\""
        };
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    response
}
