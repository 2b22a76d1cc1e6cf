//! Somebody, proven: who asks, and what they may do.

use std::{fmt, sync::Arc, time::SystemTime};

use super::{
    id::{KeyId, TicketId},
    jwks::IssuerKey,
    rights::Rights,
};
use crate::consumer::ConsumerId;

/// How somebody proved who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not at all: the open mode.
    Anybody,
    /// A proxy that is trusted says so.
    Header,
    /// By a token that an issuer signed: with this key, or with a secret that we share.
    Token(Option<IssuerKey>),
    /// By a key of ours.
    Key(KeyId),
    /// By a ticket that was given for one of these.
    Ticket {
        /// Which one.
        id: TicketId,
        /// It opens the stream again that it has opened before.
        again: bool,
        /// What the proof rests on that it was given for.
        root: Option<Root>,
    },
    /// By its address, which may read the metrics.
    Address,
    /// Not at all, where that is needed: the page for people asks for a proof.
    Nobody,
}

/// What a proof rests on: when that is withdrawn, the proof is worth nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// A key of ours.
    Key(KeyId),
    /// A key of an issuer's.
    Issuer(IssuerKey),
}

impl Kind {
    /// Its name, in logs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Anybody => "anybody",
            Self::Header => "header",
            Self::Token(_) => "token",
            Self::Key(_) => "key",
            Self::Ticket { .. } => "ticket",
            Self::Address => "address",
            Self::Nobody => "nobody",
        }
    }
}

/// Somebody, proven. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Principal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: Arc<str>,
    kind: Kind,
    consumer: Option<ConsumerId>,
    rights: Rights,
    expires: Option<SystemTime>,
    root: Option<Root>,
}

/// Somebody may not do this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

impl Principal {
    /// Somebody of this name. `consumer` is whose events they get when they name nobody's.
    pub(super) fn new(
        name: impl Into<Arc<str>>,
        kind: Kind,
        consumer: Option<ConsumerId>,
        rights: Rights,
        expires: Option<SystemTime>,
    ) -> Self {
        let root = match &kind {
            Kind::Key(key) => Some(Root::Key(*key)),
            Kind::Token(key) => key.clone().map(Root::Issuer),
            Kind::Ticket { root, .. } => root.clone(),
            _ => None,
        };
        Self(Arc::new(Inner { name: name.into(), kind, consumer, rights, expires, root }))
    }

    /// Who asks in the open mode: whoever can reach this machine's loopback may do all.
    #[must_use]
    pub fn anybody() -> Self {
        Self::new("anybody", Kind::Anybody, None, Rights::everything(), None)
    }

    /// Who asks without a proof. They may do nothing.
    #[must_use]
    pub fn nobody() -> Self {
        Self::new("", Kind::Nobody, None, Rights::default(), None)
    }

    /// What they are called, in logs and limits.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// How they proved it.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// Whose events they get when they name nobody's.
    #[must_use]
    pub fn consumer(&self) -> Option<&ConsumerId> {
        self.0.consumer.as_ref()
    }

    /// When the proof ends, if it does.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.0.expires
    }

    pub(super) fn rights(&self) -> &Rights {
        &self.0.rights
    }

    /// What all this rests on, where it can be withdrawn.
    pub(super) fn root(&self) -> Option<&Root> {
        self.0.root.as_ref()
    }

    /// Whether they may read the events of this consumer.
    pub fn may_read(&self, consumer: &ConsumerId) -> Result<(), Refused> {
        let may = match &self.0.rights.read {
            Some(read) => read.matches(consumer.as_str()),
            None => self.0.consumer.as_ref() == Some(consumer),
        };
        self.when(may, format_args!("read the events of {:?}", consumer.as_str()))
    }

    /// Whether they may write events for this consumer.
    pub fn may_write_to(&self, consumer: &ConsumerId) -> Result<(), Refused> {
        let may = self.0.rights.write.matches(consumer.as_str());
        self.when(may, format_args!("write events for {:?}", consumer.as_str()))
    }

    /// Whether they may write for anybody, or into any stream.
    pub fn may_write_anything(&self) -> Result<(), Refused> {
        let Rights { write, write_streams, .. } = &self.0.rights;
        let may = !write.is_empty() || !write_streams.is_empty();
        self.when(may, format_args!("write"))
    }

    /// Whether they may read this stream.
    pub fn may_read_stream(&self, stream: &str) -> Result<(), Refused> {
        let may = self.0.rights.read_streams.matches(stream);
        self.when(may, format_args!("read the stream {stream:?}"))
    }

    /// Whether they may append to this stream.
    pub fn may_write_stream(&self, stream: &str) -> Result<(), Refused> {
        let may = self.0.rights.write_streams.matches(stream);
        self.when(may, format_args!("append to the stream {stream:?}"))
    }

    /// Whether they may read everything.
    pub fn may_read_all(&self) -> Result<(), Refused> {
        self.when(self.0.rights.all, format_args!("read everything"))
    }

    /// Whether they may use the page for people.
    pub fn may_see_console(&self) -> Result<(), Refused> {
        self.when(self.0.rights.console, format_args!("use the console"))
    }

    /// Whether they may read the metrics.
    pub fn may_see_metrics(&self) -> Result<(), Refused> {
        self.when(self.0.rights.metrics, format_args!("read the metrics"))
    }

    fn when(&self, may: bool, what: fmt::Arguments) -> Result<(), Refused> {
        if may { Ok(()) } else { Err(Refused(format!("{:?} may not {what}", &*self.0.name))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type May = fn(&Principal, &ConsumerId) -> bool;

    fn named(name: &str, rights: &str) -> Principal {
        let consumer = name.parse().ok();
        Principal::new(
            name,
            Kind::Token(None),
            consumer,
            serde_json::from_str(rights).unwrap(),
            None,
        )
    }

    #[test]
    fn a_consumer_reads_its_own_events_unless_something_else_is_said() {
        let (toto, titi) = ("toto".parse().unwrap(), "titi".parse().unwrap());
        let plain = named("toto", "{}");
        assert_eq!((plain.may_read(&toto).is_ok(), plain.may_read(&titi).is_ok()), (true, false));
        let other = named("toto", r#"{"read": ["tit*"]}"#);
        assert_eq!((other.may_read(&toto).is_ok(), other.may_read(&titi).is_ok()), (false, true));
        assert!(named("toto", r#"{"read": []}"#).may_read(&toto).is_err());
    }

    #[test]
    fn a_name_with_a_star_in_it_is_a_name() {
        let star = named("*", "{}");
        assert!(star.may_read(&"*".parse().unwrap()).is_ok());
        assert!(star.may_read(&"toto".parse().unwrap()).is_err());
    }

    #[test]
    fn each_right_is_one_of_its_own() {
        let toto: ConsumerId = "toto".parse().unwrap();
        let checks: [(&str, May); 7] = [
            (r#"{"read": "toto"}"#, |who, toto| who.may_read(toto).is_ok()),
            (r#"{"write": "toto"}"#, |who, toto| who.may_write_to(toto).is_ok()),
            (r#"{"read_streams": "toto"}"#, |who, _| who.may_read_stream("toto").is_ok()),
            (r#"{"write_streams": "toto"}"#, |who, _| who.may_write_stream("toto").is_ok()),
            (r#"{"all": true}"#, |who, _| who.may_read_all().is_ok()),
            (r#"{"console": true}"#, |who, _| who.may_see_console().is_ok()),
            (r#"{"metrics": true}"#, |who, _| who.may_see_metrics().is_ok()),
        ];
        for (given, (rights, _)) in checks.iter().enumerate() {
            for (asked, (_, may)) in checks.iter().enumerate() {
                assert_eq!(may(&named("other", rights), &toto), given == asked, "{rights}");
            }
        }
    }

    #[test]
    fn a_refusal_is_one_line_whatever_was_asked_for() {
        let refused = named("to\nto", "{}").may_read_stream("a\r\nb").unwrap_err();
        assert_eq!(refused.to_string(), r#""to\nto" may not read the stream "a\r\nb""#);
    }
}
