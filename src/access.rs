//! Who may: what a request shows of who sends it, and what they are allowed.
//!
//! [`Access`] turns a [`Credentials`] into a [`Principal`], or says why not; the principal is asked
//! for each right. There are four kinds of proof, which can be combined: a header that a
//! trusted proxy sets, [tokens](token) of trusted issuers, [keys] of our own, and [tickets](ticket)
//! that stand for one of these. A bad proof is never no proof.

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
    principal::{Kind, Principal, Root},
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

/// What a request shows of who sends it. No `Debug`: there are secrets.
pub struct Credentials {
    /// The other end of the connection.
    pub peer: Peer,
    /// `X-Consumer-Id`.
    pub consumer: Option<ConsumerId>,
    /// `Authorization: Bearer`.
    pub bearer: Option<String>,
    /// The token in the cookie.
    pub cookie: Option<String>,
    /// `?ticket=`, and whether its stream is opened again.
    pub ticket: Option<(String, bool)>,
}

/// What ends a stream before its time, and answers why: `expired` or `revoked`. Holds the
/// stream's room until it is dropped.
pub type Ending = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// Why a stream cannot be opened.
#[derive(Debug)]
pub enum NoStream {
    /// The principal has as many as it may.
    Full,
    /// The ticket was used.
    Denied(Denied),
}

/// Who may. Its task ends with [`stop`](Self::stop).
#[derive(Debug)]
pub struct Access {
    settings: Settings,
    anybody: Principal,
    tokens: Tokens,
    keys: KeyRing,
    tickets: Tickets,
    throttle: Throttle,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// A revoked key ends its streams within about this time.
const KEYS_EVERY: Duration = Duration::from_secs(2);
const FORGET_EVERY: Duration = Duration::from_secs(10);

impl Access {
    /// Starts to keep keys up to date; those of `--auth keys` are in the database on `server`.
    #[must_use]
    pub fn start(settings: Settings, server: &Server, metrics: Arc<Metrics>) -> Arc<Self> {
        let access = Arc::new(Self {
            tokens: Tokens::new(settings.issuers.clone()),
            keys: KeyRing::new(KeyTable::new(server)),
            tickets: Tickets::new(&settings.ticket_keys),
            throttle: Throttle::new(settings.limits),
            anybody: Principal::anybody(),
            settings,
            metrics,
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        });
        // Each by itself: an issuer that hangs shall not keep a revoked key alive.
        let Modes { jwt, keys, .. } = access.modes();
        if jwt {
            access.spawn(Arc::clone(&access).keep_issuers());
        }
        if keys {
            access.spawn(Arc::clone(&access).keep_keys());
        }
        if !access.modes().is_open() {
            access.spawn(Arc::clone(&access).forget());
        }
        access
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let work = vital("proofs are not kept up to date any more", work);
            shutdown.run_until_cancelled(work).await;
        });
    }

    /// Stops, and waits until that is done.
    pub async fn stop(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Which proofs count.
    #[must_use]
    pub fn modes(&self) -> Modes {
        self.settings.modes
    }

    /// The cookie in which browsers may bring a token.
    #[must_use]
    pub fn cookie(&self) -> Option<&str> {
        self.settings.cookie.as_deref()
    }

    /// Whether pages of this web origin may write by way of the cookie.
    #[must_use]
    pub fn allows_origin(&self, origin: &str) -> bool {
        self.settings.origins.iter().any(|listed| listed == origin)
    }

    /// Whether a request from this peer may be for this host. In the open mode nothing but the
    /// host's name tells a web page, which has made its own name point here, from the people of
    /// this machine; no page reaches a Unix socket.
    #[must_use]
    pub fn answers_to(&self, host: &str, from: Peer) -> bool {
        let Settings { hosts, modes, .. } = &self.settings;
        let any = hosts.is_empty() && !modes.is_open();
        any || from == Peer::Unix || hosts.contain(host)
    }

    /// Whose `X-Consumer-Id` and `X-Forwarded-For` are believed.
    #[must_use]
    pub fn trusts(&self, peer: Peer) -> bool {
        self.settings.trusted_proxies.contain(peer)
    }

    /// Who may read the metrics without any other proof than this address.
    #[must_use]
    pub fn metrics_reader(&self, peer: Peer) -> Option<Principal> {
        let rights = Rights { metrics: true, ..Rights::default() };
        let listed = self.settings.metrics_from.contain(peer);
        listed.then(|| Principal::new(peer.to_string(), Kind::Address, None, rights, None))
    }

    /// Who sends this request.
    pub async fn authenticate(&self, proof: &Credentials) -> Result<Principal, Denied> {
        if self.modes().is_open() {
            return Ok(self.anybody.clone());
        }
        if let Some((ticket, again)) = &proof.ticket {
            return self.by_ticket(ticket, *again).await;
        }
        if let Some(bearer) = &proof.bearer
            && let Some(checked) = self.by_bearer(bearer, proof).await
        {
            return checked;
        }
        if let Some(cookie) = &proof.cookie {
            return self.tokens.check(cookie).await;
        }
        self.by_header(proof)
    }

    /// A ticket is worth no more than what it was given for: perhaps at another instance, so
    /// this one may not know of it yet.
    async fn by_ticket(&self, ticket: &str, again: bool) -> Result<Principal, Denied> {
        let who = self.tickets.check(ticket, again)?;
        match who.root() {
            Some(Root::Key(key)) => self.keys.still_counts(*key).await?,
            Some(Root::Issuer(key)) => self.tokens.still_counts(key).await?,
            None => {}
        }
        Ok(who)
    }

    /// `None`: it is no proof of ours, and a trusted proxy, which has looked at it itself,
    /// says who it is.
    async fn by_bearer(
        &self,
        bearer: &str,
        proof: &Credentials,
    ) -> Option<Result<Principal, Denied>> {
        let modes = self.modes();
        if modes.keys && bearer.starts_with(keys::PREFIX) {
            return Some(self.keys.check(bearer).await);
        }
        if modes.jwt {
            return Some(self.tokens.check(bearer).await);
        }
        if modes.trusted_header && proof.consumer.is_some() && self.trusts(proof.peer) {
            return None;
        }
        Some(Err(Denied::bad("malformed", "no such token or key is accepted here")))
    }

    fn by_header(&self, proof: &Credentials) -> Result<Principal, Denied> {
        match &proof.consumer {
            Some(consumer) if self.modes().trusted_header => {
                if !self.trusts(proof.peer) {
                    let detail = format!(
                        "X-Consumer-Id is believed of trusted proxies only, and {} is none of \
                         --trusted-proxies",
                        proof.peer
                    );
                    return Err(Denied::bad("untrusted-proxy", detail));
                }
                Ok(self.named(consumer))
            }
            _ => Err(Denied::none(self.expected())),
        }
    }

    /// A trusted proxy names this consumer: it reads its own events, and whatever else
    /// everybody may who is named so.
    fn named(&self, consumer: &ConsumerId) -> Principal {
        let rights = self.settings.header_rights.clone();
        Principal::new(consumer.as_str(), Kind::Header, Some(consumer.clone()), rights, None)
    }

    fn expected(&self) -> String {
        let Modes { trusted_header, jwt, keys } = self.modes();
        let header = "the header X-Consumer-Id, which what stands in front of EventPiper sets";
        let mut proofs = Vec::new();
        if jwt {
            proofs.push("Authorization: Bearer with a token (in an EventSource's address: ?ticket= of POST /tickets)");
        }
        if keys {
            proofs.push("Authorization: Bearer with a key (ep_...)");
        }
        if trusted_header {
            proofs.push(header);
        }
        format!("nothing says who is asking: expected {}", proofs.join(", or "))
    }

    /// Counts a refusal.
    pub fn note(&self, reason: &'static str) {
        self.metrics.denied.get_or_create(&Reason { reason }).inc();
    }

    /// How long the answer to a bad proof from there shall wait, if it is to be answered.
    pub fn failed(&self, from: Peer) -> Result<Duration, RetryAfter> {
        match from {
            Peer::Ip(address) => self.throttle.failed(address),
            Peer::Unix => Ok(Duration::ZERO),
        }
    }

    /// Counts a request against what its principal may ask for in a second.
    pub fn request(&self, who: &Principal) -> Result<(), RetryAfter> {
        if *who.kind() == Kind::Anybody { Ok(()) } else { self.throttle.request(who.name()) }
    }

    /// Counts events, and their bytes, against what their principal may append in a second.
    pub fn append(&self, who: &Principal, events: usize, bytes: usize) -> Result<(), RetryAfter> {
        self.throttle.append_bytes(who.name(), bytes)?;
        if *who.kind() == Kind::Anybody {
            return Ok(());
        }
        self.throttle.append(who.name(), events)
    }

    /// How many bytes one principal may append in a second.
    #[must_use]
    pub fn append_bytes(&self) -> usize {
        usize::try_from(self.settings.limits.append_bytes.get()).unwrap_or(usize::MAX)
    }

    /// Takes room for a stream of this principal's, and uses its ticket. Answers what ends the
    /// stream before its time.
    pub fn open_stream(self: &Arc<Self>, who: &Principal) -> Result<Option<Ending>, NoStream> {
        if *who.kind() == Kind::Anybody {
            return Ok(None);
        }
        let room = self.throttle.stream(who.name()).ok_or(NoStream::Full)?;
        if let Kind::Ticket { id, again, .. } = who.kind() {
            self.tickets.redeem(*id, *again).map_err(NoStream::Denied)?;
        }
        let (expired, revoked) = (expired(who.expires()), self.revoked(who));
        Ok(Some(Box::pin(async move {
            let _room = room;
            tokio::select! {
                () = expired => "expired",
                () = revoked => "revoked",
            }
        })))
    }

    fn revoked(&self, who: &Principal) -> impl Future<Output = ()> + Send + use<> {
        let (key, issuers) = match who.root() {
            Some(Root::Key(key)) => (Some(self.keys.revoked(*key)), None),
            Some(Root::Issuer(key)) => (None, self.tokens.withdrawn(key)),
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

    /// Ends when what this one has shown counts no more.
    pub fn ended(&self, who: &Principal) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (expired, revoked) = (expired(who.expires()), self.revoked(who));
        Box::pin(async move {
            tokio::select! {
                () = expired => {}
                () = revoked => {}
            }
        })
    }

    /// Whether a proof that was good still is: for what takes long.
    pub fn holds(&self, who: &Principal) -> Result<(), Denied> {
        if who.expires().is_some_and(|expires| expires <= SystemTime::now()) {
            return Err(Denied::bad("expired", "the token or key has expired meanwhile"));
        }
        let counts = match who.root() {
            Some(Root::Key(key)) => self.keys.counts(*key),
            Some(Root::Issuer(key)) => self.tokens.counts(key),
            None => true,
        };
        if counts { Ok(()) } else { Err(Denied::revoked("the key was revoked meanwhile")) }
    }

    /// A ticket for what this one may follow, or of that only these consumers.
    pub fn issue(
        &self,
        who: &Principal,
        consumers: Option<&[ConsumerId]>,
    ) -> Result<Issued, NoTicket> {
        self.metrics.tickets.inc();
        self.tickets.issue(who, consumers)
    }

    /// Keeps up with the issuers, not in step with other instances.
    async fn keep_issuers(self: Arc<Self>) {
        loop {
            self.tokens.renew().await;
            sleep(self.settings.refresh.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        }
    }

    /// Keeps up with the table of keys.
    async fn keep_keys(self: Arc<Self>) {
        let mut ticks = every(KEYS_EVERY);
        loop {
            ticks.tick().await;
            self.keys.renew().await;
        }
    }

    /// Forgets who has been quiet.
    async fn forget(self: Arc<Self>) {
        let mut ticks = every(FORGET_EVERY);
        loop {
            ticks.tick().await;
            self.throttle.forget();
            self.tickets.forget();
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits until then, in steps: a clock that is set meanwhile, or a machine that was asleep,
/// shall not prolong what has ended.
async fn expired(at: Option<SystemTime>) {
    const STEP: Duration = Duration::from_mins(1);
    let Some(at) = at else { return std::future::pending().await };
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        sleep(left.clamp(Duration::from_millis(1), STEP)).await;
    }
}
