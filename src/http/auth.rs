//! At the door: finds out who sends a request before anything else looks at it, and writes
//! down who was refused and why.

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
    class::{Class, WithoutProof},
    credentials,
    error::{Problem, Refusal},
    event_stream::{FULL, overloaded},
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

/// What these lines are found by: `--log event_piper::audit=info`.
const AUDIT: &str = "event_piper::audit";

/// These routes of a class, for those who are let in: each finds a [`Principal`] in its request.
pub(super) fn authenticated(
    app: &Arc<App>,
    class: Class,
    routes: MethodRouter<Arc<App>>,
) -> MethodRouter<Arc<App>> {
    // The guard finds the class in the request.
    routes
        .route_layer(middleware::from_fn_with_state(Arc::clone(app), authenticate))
        .route_layer(Extension(class))
}

/// Puts a [`Principal`] into the request, or refuses it.
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
                Ok(Err(problem)) if entry.stream => entry.busy(&problem),
                Err(problem) | Ok(Err(problem)) => problem.into_response(),
            };
            entry.answered(&app, Some(&who), response).await
        }
        Err(Refused::Now(problem)) => entry.answered(&app, None, problem.into_response()).await,
        Err(Refused::Later(wait)) => entry.later(&app, wait),
    };
    let mut response = challenged(&app, response);
    let status = response.status();
    let lasting = is_read && (status.is_success() || status == StatusCode::NOT_MODIFIED);
    not_for_others(response.headers_mut(), lasting);
    response
}

/// The same for an address that everybody may ask, and that says more to some.
pub(super) async fn varies_by_caller(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    not_for_others(response.headers_mut(), false);
    response
}

/// What an answer depends on beside the address. A stream is a page or is followed, by `Accept`.
const VARY: &str = "authorization, cookie, x-consumer-id, accept";

/// No cache gives one caller's answer to another one. What was read may be kept by the caller, who
/// asks each time whether it still holds.
fn not_for_others(headers: &mut HeaderMap, lasting: bool) {
    headers.append(header::VARY, HeaderValue::from_static(VARY));
    let kept = HeaderValue::from_static(if lasting { "private, no-cache" } else { "no-store" });
    headers.entry(header::CACHE_CONTROL).or_insert(kept);
}

/// Whether what somebody has shown still counts, where it can end.
fn permitted(app: &Arc<App>, who: &Principal) -> Option<StillPermitted> {
    let (app, who) = (Arc::clone(app), who.clone());
    let ends = *who.kind() != Kind::Anybody;
    ends.then(|| -> StillPermitted { Box::new(move || app.access.holds(&who).is_ok()) })
}

enum Refused {
    Now(Problem),
    Later(RetryAfter),
}

/// Not `async` as a whole: the request, whose body cannot be shared, is not held across a wait.
fn admit<'a>(
    app: &'a App,
    entry: &AuditEntry,
    request: &Request,
) -> impl Future<Output = Result<Principal, Refused>> + Send + use<'a> {
    let access = &app.access;
    let proof = credentials::extract(access, request).map_err(Refused::Now);
    let without_proof = without_proof(access, entry.peer, request);
    let stream = entry.stream;
    async move {
        let who = match access.authenticate(&proof?).await {
            Ok(who) => who,
            Err(denied) => match (denied.what, without_proof) {
                (Missing::Proof, Some(who)) => return Ok(who),
                (Missing::Means, _) if stream => return Err(Refused::Later(MEANS_BACK)),
                _ => return Err(Refused::Now(Problem::denied(denied))),
            },
        };
        access.request(&who).map_err(Refused::Later)?;
        Ok(who)
    }
}

/// As whom somebody is let in who shows no proof.
fn without_proof(access: &Access, peer: Peer, request: &Request) -> Option<Principal> {
    let modes = access.modes();
    match Class::of(request).without_proof() {
        WithoutProof::Nobody => None,
        WithoutProof::Everybody => (modes.jwt || modes.keys).then(Principal::nobody),
        WithoutProof::Operators => {
            credentials::is_direct(request).then(|| access.metrics_reader(peer)).flatten()
        }
    }
}

/// Whether whoever sends this may see what is for operators: by its address, or by what it shows.
/// Nobody is refused for a proof that is bad: this is asked where everybody gets an answer.
pub(super) fn may_see_metrics<'a>(
    app: &'a App,
    request: &Request,
) -> impl Future<Output = bool> + Send + use<'a> {
    let access = &app.access;
    let peer = credentials::peer(request);
    let listed = credentials::is_direct(request) && access.metrics_reader(peer).is_some();
    let shows = access.modes().is_open()
        || [header::AUTHORIZATION, header::COOKIE]
            .iter()
            .any(|it| request.headers().contains_key(it));
    let proof = (!listed && shows).then(|| credentials::extract(access, request));
    async move {
        let Some(Ok(proof)) = proof else { return listed };
        let who = access.authenticate(&proof).await;
        who.is_ok_and(|who| access.request(&who).is_ok() && who.may_see_metrics().is_ok())
    }
}

/// What no proof can be checked without may be back after this.
const MEANS_BACK: RetryAfter = RetryAfter(Duration::from_secs(5));

/// Lets nobody in who asks for somebody else, as a web page does that has made its own name
/// point to this machine.
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

/// Takes room for a stream, and uses the ticket that opens it.
pub(super) fn open_stream(app: &App, who: &Principal) -> Result<Option<Ending>, Box<Response>> {
    let full = || {
        let refused = &app.gateway.metrics().refused;
        refused.get_or_create(&Reason { reason: "streams-of-a-principal" }).inc();
        overloaded(FULL)
    };
    let opened = app.access.open_stream(who);
    opened.map_err(|no| {
        Box::new(match no {
            NoStream::Full | NoStream::Denied(Denied { what: Missing::Means, .. }) => full(),
            NoStream::Denied(denied) => Problem::denied(denied).into_response(),
        })
    })
}

/// A request, as it is written down: no query, no header that could hold a secret.
struct AuditEntry {
    peer: Peer,
    from: Peer,
    method: Method,
    path: String,
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

    /// Keys and tickets leave a trace wherever they are used.
    fn note_use(&self, who: &Principal) {
        let (action, id) = match who.kind() {
            Kind::Key(id) => ("key used", id.to_string()),
            Kind::Ticket { id, .. } => ("ticket shown", id.to_string()),
            _ => return,
        };
        let Self { from, method, path, .. } = self;
        info!(target: AUDIT, action, who = &**who.name(), id, %from, %method, path, "audit: {action}");
    }

    /// A refusal is written down, and one of a bad proof waits for its turn: beyond what may
    /// wait it is not even told apart.
    async fn answered(&self, app: &App, who: Option<&Principal>, response: Response) -> Response {
        let refusal = response.extensions().get::<Refusal>();
        let bad_proof = refusal.is_some_and(|refusal| refusal.bad_proof);
        match if bad_proof { app.access.failed(self.from) } else { Ok(Duration::ZERO) } {
            Ok(wait) => {
                self.note_refusal(app, who, &response);
                // Tokio takes a millisecond for no time at all.
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
        let Some(refusal) = response.extensions().get::<Refusal>() else { return };
        let Refusal { reason, detail, .. } = refusal;
        app.access.note(reason);
        let (name, kind) = who.map_or(("", "nobody"), |who| (&**who.name(), who.kind().as_str()));
        let Self { from, method, path, .. } = self;
        let status = response.status().as_u16();
        info!(
            target: AUDIT,
            action = "refused", who = name, kind, %from, %method, path, status, reason, why = detail.as_str(),
            "audit: refused"
        );
    }

    /// The same where it is not a rate.
    fn busy(&self, problem: &Problem) -> Response {
        tracing::debug!(path = ?self.path, why = problem.detail(), "a stream is asked back later");
        overloaded(FULL)
    }

    /// Answers that there is too much of something. An `EventSource` would never come back
    /// after a 429.
    fn later(&self, app: &App, RetryAfter(wait): RetryAfter) -> Response {
        app.access.note("throttled");
        if self.stream { overloaded(wait) } else { Problem::too_many(wait).into_response() }
    }
}

/// RFC 9110, section 11.6.1: a 401 says what would be a proof.
fn challenged(app: &App, mut response: Response) -> Response {
    let modes = app.access.modes();
    if response.status() == 401 && (modes.jwt || modes.keys) {
        let bad = response.extensions().get::<Refusal>().is_some_and(|it| it.bad_proof);
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
