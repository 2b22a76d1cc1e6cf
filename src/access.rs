//! Authentication and authorization: who sends a request, and what the sender may do.
//!
//! [`Access`] checks a the [`Credentials`] of a request and returns a [`Principal`] or an
//! error. Each right is then asked of the principal. There are four kinds of credentials, which can
//! be combined: a header that a trusted proxy sets, [tokens](token) of trusted issuers, [keys] that
//! this program creates, and [tickets](ticket) that stand for one of these. Bad credentials are
//! refused, never ignored.

pub mod budget;
mod crypto;
mod denied;
pub mod hosts;
mod id;
pub mod jwks;
mod kept;
pub mod keys;
pub mod networks;
pub mod principal;
pub mod rights;
mod settings;
mod throttle;
pub mod ticket;
pub mod token;

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    denied::{Denied, Missing},
    settings::{Modes, Settings},
    throttle::{Limits, RetryAfter},
};
use self::{
    keys::KeyRing,
    networks::Peer,
    principal::{CredentialId, Kind, Principal},
    rights::Rights,
    throttle::Throttle,
    ticket::{Issued, NoTicket, Tickets},
    token::Tokens,
};
use crate::{
    consumer::ConsumerId,
    crash::vital,
    metrics::{Metrics, Reason},
    store::{keys::KeyTable, server::Server},
};

/// The credentials of a request. No `Debug`, since they contain secrets.
pub struct Credentials {
    /// The other end of the connection.
    pub peer: Peer,
    /// `X-Consumer-Id`.
    pub consumer: Option<ConsumerId>,
    /// `Authorization: Bearer`.
    pub bearer: Option<String>,
    /// The token in the cookie that `--jwt-cookie` names.
    pub cookie: Option<String>,
    /// The ticket in `?ticket=`, and whether the request resumes a stream (it has `Last-Event-ID`).
    pub ticket: Option<(String, bool)>,
}

/// Completes when the stream must end, with the reason: `expired` or `revoked`. It counts the
/// stream against the principal's limit until it is dropped.
pub type Ending = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// Why a stream cannot be opened.
#[derive(Debug)]
pub enum NoStream {
    /// The principal has reached its limit of open streams.
    Full,
    /// The ticket has been used, or cannot be noted as used at present.
    Denied(Denied),
}

/// Authenticates requests and limits principals. Its tasks run until [`stop`](Self::stop).
#[derive(Debug)]
pub struct Access {
    settings: Settings,
    open: Principal,
    tokens: Tokens,
    keys: KeyRing,
    tickets: Tickets,
    throttle: Throttle,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// How often the table of keys is read. A revoked key ends its streams within about this time.
const KEYS_REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// How often limits and tickets that no longer matter are removed from memory.
const EVICTION_INTERVAL: Duration = Duration::from_secs(10);

impl Access {
    /// Starts the tasks that refresh the keys of issuers and, for `--auth keys`, the table of keys
    /// in the database on `server`.
    #[must_use]
    pub fn start(settings: Settings, server: &Server, metrics: Arc<Metrics>) -> Arc<Self> {
        let access = Arc::new(Self {
            tokens: Tokens::new(settings.issuers.clone()),
            keys: KeyRing::new(KeyTable::new(server)),
            tickets: Tickets::new(&settings.ticket_keys),
            throttle: Throttle::new(settings.limits),
            open: Principal::open(),
            settings,
            metrics,
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        });
        // In tasks of their own: an issuer that hangs must not delay the revocation of keys.
        let Modes { jwt, keys, .. } = access.modes();
        if jwt {
            access.spawn(Arc::clone(&access).refresh_issuers());
        }
        if keys {
            access.spawn(Arc::clone(&access).refresh_keys());
        }
        if !access.modes().is_open() {
            access.spawn(Arc::clone(&access).evict());
        }
        access
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let work = vital("keys and limits are no longer refreshed", work);
            shutdown.run_until_cancelled(work).await;
        });
    }

    /// Stops the tasks, and waits until they have ended.
    pub async fn stop(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The accepted kinds of credentials.
    #[must_use]
    pub fn modes(&self) -> Modes {
        self.settings.modes
    }

    /// The name of the cookie in which browsers may send a token. `None`: no cookie is accepted.
    #[must_use]
    pub fn cookie(&self) -> Option<&str> {
        self.settings.cookie.as_deref()
    }

    /// Whether pages of this web origin may write with a token from the cookie.
    #[must_use]
    pub fn allows_origin(&self, origin: &str) -> bool {
        self.settings.origins.iter().any(|listed| listed == origin)
    }

    /// Whether a request of this peer may name this host.
    ///
    /// In the open mode the host name is the only thing that tells a web page, which made its own
    /// name resolve to this machine (DNS rebinding), from a user of this machine. A page cannot
    /// reach a Unix socket.
    #[must_use]
    pub fn answers_to(&self, host: &str, from: Peer) -> bool {
        let Settings { hosts, modes, .. } = &self.settings;
        let any = hosts.is_empty() && !modes.is_open();
        any || from == Peer::Unix || hosts.contain(host)
    }

    /// Whether `X-Consumer-Id` and `X-Forwarded-For` of this peer are trusted.
    #[must_use]
    pub fn trusts(&self, peer: Peer) -> bool {
        self.settings.trusted_proxies.contain(peer)
    }

    /// A principal that may read the metrics, if this address needs no other credentials for that.
    #[must_use]
    pub fn metrics_reader(&self, peer: Peer) -> Option<Principal> {
        let rights = Rights { metrics: true, ..Rights::default() };
        let listed = self.settings.metrics_from.contain(peer);
        listed.then(|| Principal::new(peer.to_string(), Kind::Address, None, rights, None))
    }

    /// Authenticates a request.
    ///
    /// # Errors
    /// If there are no credentials, if they are not valid, or if they cannot be checked at present.
    pub async fn authenticate(&self, credentials: &Credentials) -> Result<Principal, Denied> {
        if self.modes().is_open() {
            return Ok(self.open.clone());
        }
        if let Some((ticket, again)) = &credentials.ticket {
            return self.by_ticket(ticket, *again).await;
        }
        if let Some(bearer) = &credentials.bearer
            && let Some(checked) = self.by_bearer(bearer, credentials).await
        {
            return checked;
        }
        if let Some(cookie) = &credentials.cookie {
            return self.tokens.check(cookie).await;
        }
        self.by_header(credentials)
    }

    /// A ticket is valid only as long as the key or token that it was issued for. Another instance
    /// may have issued it, so this instance may not have read that key yet.
    async fn by_ticket(&self, ticket: &str, again: bool) -> Result<Principal, Denied> {
        let who = self.tickets.check(ticket, again)?;
        match who.credential() {
            Some(CredentialId::Key(key)) => self.keys.check_id(*key).await?,
            Some(CredentialId::Issuer(key)) => self.tokens.check_issuer_key(key).await?,
            None => {}
        }
        Ok(who)
    }

    /// Checks a bearer token. `None`: it is neither a key nor a token for this program, and a trusted
    /// proxy, which has checked it, names the consumer.
    async fn by_bearer(
        &self,
        bearer: &str,
        credentials: &Credentials,
    ) -> Option<Result<Principal, Denied>> {
        let modes = self.modes();
        if modes.keys && bearer.starts_with(keys::KEY_PREFIX) {
            return Some(self.keys.check(bearer).await);
        }
        if modes.jwt {
            return Some(self.tokens.check(bearer).await);
        }
        if modes.trusted_header && credentials.consumer.is_some() && self.trusts(credentials.peer) {
            return None;
        }
        Some(Err(Denied::bad(
            "malformed",
            "the token or key is of a kind that is not accepted here",
        )))
    }

    fn by_header(&self, credentials: &Credentials) -> Result<Principal, Denied> {
        match &credentials.consumer {
            Some(consumer) if self.modes().trusted_header => {
                if !self.trusts(credentials.peer) {
                    let detail = format!(
                        "X-Consumer-Id is accepted from trusted proxies only, and {} is not in \
                         --trusted-proxies",
                        credentials.peer
                    );
                    return Err(Denied::bad("untrusted-proxy", detail));
                }
                Ok(self.named(consumer))
            }
            _ => Err(Denied::none(self.expected())),
        }
    }

    /// The principal of a consumer that a trusted proxy names. It may read its own events, and has the
    /// rights of `--header-rights`.
    fn named(&self, consumer: &ConsumerId) -> Principal {
        let rights = self.settings.header_rights.clone();
        Principal::new(consumer.as_str(), Kind::Header, Some(consumer.clone()), rights, None)
    }

    fn expected(&self) -> String {
        let Modes { trusted_header, jwt, keys } = self.modes();
        let header = "the header X-Consumer-Id, set by the proxy in front of EventPiper";
        let mut proofs = Vec::new();
        if jwt {
            proofs.push("Authorization: Bearer with a token (for an EventSource: ?ticket= with a ticket from POST /tickets)");
        }
        if keys {
            proofs.push("Authorization: Bearer with a key (ep_...)");
        }
        if trusted_header {
            proofs.push(header);
        }
        format!("the request has no credentials: expected {}", proofs.join(", or "))
    }

    /// Counts a refused request in the metrics.
    pub fn note(&self, reason: &'static str) {
        self.metrics.denied.get_or_create(&Reason { reason }).inc();
    }

    /// Notes bad credentials from a peer, and returns how long to delay the response.
    ///
    /// # Errors
    /// If the peer has sent too many: the request must be refused at once.
    pub fn failed(&self, from: Peer) -> Result<Duration, RetryAfter> {
        match from {
            Peer::Ip(address) => self.throttle.failed(address),
            Peer::Unix => Ok(Duration::ZERO),
        }
    }

    /// Counts a request against its principal's limit per second.
    pub fn request(&self, who: &Principal) -> Result<(), RetryAfter> {
        if *who.kind() == Kind::Open { Ok(()) } else { self.throttle.request(who.name()) }
    }

    /// Counts events and their bytes against the principal's limits per second.
    pub fn append(&self, who: &Principal, events: usize, bytes: usize) -> Result<(), RetryAfter> {
        self.throttle.append_bytes(who.name(), bytes)?;
        if *who.kind() == Kind::Open {
            return Ok(());
        }
        self.throttle.append(who.name(), events)
    }

    /// The number of bytes that one principal may append per second.
    #[must_use]
    pub fn append_bytes(&self) -> usize {
        usize::try_from(self.settings.limits.append_bytes.get()).unwrap_or(usize::MAX)
    }

    /// Counts a new stream of a principal, and marks its ticket as used. Returns what ends the stream;
    /// `None` in the open mode, in which nothing does.
    pub fn open_stream(self: &Arc<Self>, who: &Principal) -> Result<Option<Ending>, NoStream> {
        if *who.kind() == Kind::Open {
            return Ok(None);
        }
        let guard = self.throttle.stream(who.name()).ok_or(NoStream::Full)?;
        if let Kind::Ticket { id, again, .. } = who.kind() {
            self.tickets.redeem(*id, *again).map_err(NoStream::Denied)?;
        }
        let (expired, revoked) = (expired(who.expires()), self.revoked(who));
        Ok(Some(Box::pin(async move {
            let _guard = guard;
            tokio::select! {
                () = expired => "expired",
                () = revoked => "revoked",
            }
        })))
    }

    fn revoked(&self, who: &Principal) -> impl Future<Output = ()> + Send + use<> {
        let (key, issuers) = match who.credential() {
            Some(CredentialId::Key(key)) => (Some(self.keys.revoked(*key)), None),
            Some(CredentialId::Issuer(key)) => (None, self.tokens.withdrawn(key)),
            None => (None, None),
        };
        async move {
            match (key, issuers) {
                (Some(revoked), _) => revoked.await,
                (_, Some(withdrawn)) => withdrawn.await,
                (None, None) => std::future::pending().await,
            }
        }
    }

    /// Completes when the principal's credentials have expired or have been revoked.
    pub fn ended(&self, who: &Principal) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (expired, revoked) = (expired(who.expires()), self.revoked(who));
        Box::pin(async move {
            tokio::select! {
                () = expired => {}
                () = revoked => {}
            }
        })
    }

    /// Checks again, during a long request, that credentials are still valid.
    pub fn holds(&self, who: &Principal) -> Result<(), Denied> {
        if who.expires().is_some_and(|expires| expires <= SystemTime::now()) {
            return Err(Denied::bad("expired", "the token or key has expired during the request"));
        }
        let is_valid = match who.credential() {
            Some(CredentialId::Key(key)) => self.keys.is_known(*key),
            Some(CredentialId::Issuer(key)) => self.tokens.was_published(key),
            None => true,
        };
        if is_valid {
            Ok(())
        } else {
            Err(Denied::revoked("the key has been revoked during the request"))
        }
    }

    /// Issues a ticket for everything that the principal may follow, or for these consumers only.
    pub fn issue(
        &self,
        who: &Principal,
        consumers: Option<&[ConsumerId]>,
    ) -> Result<Issued, NoTicket> {
        self.metrics.tickets.inc();
        self.tickets.issue(who, consumers)
    }

    /// Refreshes the keys of issuers. The jitter keeps instances from doing so at the same time.
    async fn refresh_issuers(self: Arc<Self>) {
        loop {
            self.tokens.refresh().await;
            sleep(self.settings.refresh.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        }
    }

    /// Refreshes the keys from the table.
    async fn refresh_keys(self: Arc<Self>) {
        let mut ticks = every(KEYS_REFRESH_INTERVAL);
        loop {
            ticks.tick().await;
            self.keys.refresh().await;
        }
    }

    /// Removes idle principals and old tickets from memory.
    async fn evict(self: Arc<Self>) {
        let mut ticks = every(EVICTION_INTERVAL);
        loop {
            ticks.tick().await;
            self.throttle.evict();
            self.tickets.evict();
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits until this time, or forever. It waits in steps, so that credentials end in time even if the
/// clock is set or the machine sleeps in between.
async fn expired(at: Option<SystemTime>) {
    const STEP: Duration = Duration::from_mins(1);
    let Some(at) = at else { return std::future::pending().await };
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        sleep(left.clamp(Duration::from_millis(1), STEP)).await;
    }
}
