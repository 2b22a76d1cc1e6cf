//! The authenticated sender of a request, and what it may do.

use std::{fmt, sync::Arc, time::SystemTime};

use super::{
    id::{KeyId, TicketId},
    jwks::IssuerKey,
    rights::Rights,
};
use crate::consumer::ConsumerId;

/// The kind of credentials that a principal has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None, in the open mode.
    Open,
    /// The header `X-Consumer-Id` of a trusted proxy.
    Header,
    /// A token. The key is the one that signed it; `None`: a shared secret signed it.
    Token(Option<IssuerKey>),
    /// A key that this program created.
    Key(KeyId),
    /// A ticket that was issued for one of these.
    Ticket {
        /// Identifies the ticket.
        id: TicketId,
        /// Whether the request resumes the stream of the ticket.
        again: bool,
        /// The key behind the credentials that the ticket was issued for, if it can be revoked.
        credential: Option<CredentialId>,
    },
    /// The address, which may read the metrics.
    Address,
    /// None, where the console page is served to ask for them.
    Anonymous,
}

/// The revocable key behind credentials. When it is revoked, the credentials are no longer valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialId {
    /// A key that this program created.
    Key(KeyId),
    /// A key of an issuer.
    Issuer(IssuerKey),
}

impl Kind {
    /// The name in logs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Open => "anybody",
            Self::Header => "header",
            Self::Token(_) => "token",
            Self::Key(_) => "key",
            Self::Ticket { .. } => "ticket",
            Self::Address => "address",
            Self::Anonymous => "nobody",
        }
    }
}

/// The authenticated sender of a request. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Principal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: Arc<str>,
    kind: Kind,
    consumer: Option<ConsumerId>,
    rights: Rights,
    expires: Option<SystemTime>,
    credential: Option<CredentialId>,
}

/// The principal lacks a right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

impl Principal {
    /// A principal of this name. It gets the events of `consumer` when its request names no consumer.
    pub(super) fn new(
        name: impl Into<Arc<str>>,
        kind: Kind,
        consumer: Option<ConsumerId>,
        rights: Rights,
        expires: Option<SystemTime>,
    ) -> Self {
        let credential = match &kind {
            Kind::Key(key) => Some(CredentialId::Key(*key)),
            Kind::Token(key) => key.clone().map(CredentialId::Issuer),
            Kind::Ticket { credential, .. } => credential.clone(),
            _ => None,
        };
        Self(Arc::new(Inner { name: name.into(), kind, consumer, rights, expires, credential }))
    }

    /// The principal of the open mode, which has all rights.
    #[must_use]
    pub fn open() -> Self {
        Self::new("anybody", Kind::Open, None, Rights::everything(), None)
    }

    /// A principal without credentials and without rights.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::new("", Kind::Anonymous, None, Rights::default(), None)
    }

    /// The name in logs, and the one that limits apply to.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// The kind of its credentials.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// The consumer whose events it gets when its request names no consumer.
    #[must_use]
    pub fn consumer(&self) -> Option<&ConsumerId> {
        self.0.consumer.as_ref()
    }

    /// When the credentials expire. `None`: never.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.0.expires
    }

    pub(super) fn rights(&self) -> &Rights {
        &self.0.rights
    }

    /// The key behind the credentials, if it can be revoked.
    pub(super) fn credential(&self) -> Option<&CredentialId> {
        self.0.credential.as_ref()
    }

    /// Checks the right to read the events of a consumer.
    pub fn may_read(&self, consumer: &ConsumerId) -> Result<(), Refused> {
        let may = match &self.0.rights.read {
            Some(read) => read.matches(consumer.as_str()),
            None => self.0.consumer.as_ref() == Some(consumer),
        };
        self.allow_if(may, format_args!("read the events of {:?}", consumer.as_str()))
    }

    /// Checks the right to write events for a consumer.
    pub fn may_write_to(&self, consumer: &ConsumerId) -> Result<(), Refused> {
        let may = self.0.rights.write.matches(consumer.as_str());
        self.allow_if(may, format_args!("write events for {:?}", consumer.as_str()))
    }

    /// Checks that it may write for any consumer, or to any stream, at all.
    pub fn may_write_anything(&self) -> Result<(), Refused> {
        let Rights { write, write_streams, .. } = &self.0.rights;
        let may = !write.is_empty() || !write_streams.is_empty();
        self.allow_if(may, format_args!("write"))
    }

    /// Checks the right to read a stream.
    pub fn may_read_stream(&self, stream: &str) -> Result<(), Refused> {
        let may = self.0.rights.read_streams.matches(stream);
        self.allow_if(may, format_args!("read the stream {stream:?}"))
    }

    /// Checks the right to append to a stream.
    pub fn may_write_stream(&self, stream: &str) -> Result<(), Refused> {
        let may = self.0.rights.write_streams.matches(stream);
        self.allow_if(may, format_args!("append to the stream {stream:?}"))
    }

    /// Checks the right to read the events of all consumers.
    pub fn may_read_all(&self) -> Result<(), Refused> {
        self.allow_if(self.0.rights.all, format_args!("read everything"))
    }

    /// Checks the right to use the console page.
    pub fn may_see_console(&self) -> Result<(), Refused> {
        self.allow_if(self.0.rights.console, format_args!("use the console"))
    }

    /// Checks the right to read the metrics.
    pub fn may_see_metrics(&self) -> Result<(), Refused> {
        self.allow_if(self.0.rights.metrics, format_args!("read the metrics"))
    }

    fn allow_if(&self, may: bool, what: fmt::Arguments) -> Result<(), Refused> {
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
    fn a_consumer_reads_its_own_events_by_default() {
        let (toto, titi) = ("toto".parse().unwrap(), "titi".parse().unwrap());
        let plain = named("toto", "{}");
        assert_eq!((plain.may_read(&toto).is_ok(), plain.may_read(&titi).is_ok()), (true, false));
        let other = named("toto", r#"{"read": ["tit*"]}"#);
        assert_eq!((other.may_read(&toto).is_ok(), other.may_read(&titi).is_ok()), (false, true));
        assert!(named("toto", r#"{"read": []}"#).may_read(&toto).is_err());
    }

    #[test]
    fn a_star_in_the_own_name_is_no_pattern() {
        let star = named("*", "{}");
        assert!(star.may_read(&"*".parse().unwrap()).is_ok());
        assert!(star.may_read(&"toto".parse().unwrap()).is_err());
    }

    #[test]
    fn each_right_grants_nothing_else() {
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
    fn an_error_is_one_line() {
        let refused = named("to\nto", "{}").may_read_stream("a\r\nb").unwrap_err();
        assert_eq!(refused.to_string(), r#""to\nto" may not read the stream "a\r\nb""#);
    }
}
