//! Whose events a request is about.
//!
//! The `X-Consumer-Id` header names the consumer, or the query, since a browser's
//! `EventSource` can set no header; else the token or the key does. A query beside the header
//! can narrow it, never widen it. Whoever asks must have the right to read what is named.

use axum::http::HeaderMap;

use super::{error::Problem, field, query::Query};
use crate::{
    access::principal::{Kind, Principal},
    consumer::{ConsumerId, InvalidConsumer},
    event::name::InvalidName,
};

/// The header that names the consumer.
pub(super) const CONSUMER: &str = "x-consumer-id";

/// As many consumers one connection may follow.
const MOST: usize = 32;

/// The consumers that a request is about: at least one, and all of them may be read.
pub(super) fn consumers(
    who: &Principal,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Box<[ConsumerId]>, Problem> {
    let consumers = match any_consumers(headers, query)? {
        Some(named) => named,
        None => [own(who)?].into(),
    };
    consumers.iter().try_for_each(|consumer| who.may_read(consumer))?;
    Ok(consumers)
}

/// The consumers that a request names, if it names any.
pub(super) fn any_consumers(
    headers: &HeaderMap,
    query: &Query,
) -> Result<Option<Box<[ConsumerId]>>, Problem> {
    let asked = asked(query)?;
    match header(headers)? {
        Some(named) => narrowed(named, &asked).map(Some),
        None => Ok((!asked.is_empty()).then(|| asked.into())),
    }
}

/// Whose events those get who name nobody.
fn own(who: &Principal) -> Result<ConsumerId, Problem> {
    who.consumer().cloned().ok_or_else(|| match who.kind() {
        Kind::Anybody => Problem::unauthorized(
            "name the consumer: with the header X-Consumer-Id, or with ?consumer= in the address",
        ),
        kind => Problem::bad_request(format!(
            "this {} names no consumer of its own: expected ?consumer= in the address",
            kind.as_str()
        )),
    })
}

/// The consumer that the header names.
pub(super) fn header(headers: &HeaderMap) -> Result<Option<ConsumerId>, Problem> {
    field::text(headers, CONSUMER)?.map(named).transpose()
}

/// The consumers that the query names.
pub(super) fn asked(query: &Query) -> Result<Vec<ConsumerId>, Problem> {
    let mut asked = Vec::new();
    for name in query.all("consumer") {
        let consumer = named(name)?;
        if !asked.contains(&consumer) {
            asked.push(consumer);
        }
        if asked.len() > MOST {
            let most = format!("one connection follows at most {MOST} consumers");
            return Err(Problem::bad_request(most));
        }
    }
    Ok(asked)
}

fn named(name: &str) -> Result<ConsumerId, Problem> {
    name.parse().map_err(|invalid: InvalidConsumer| match invalid {
        InvalidConsumer(InvalidName::Empty) => Problem::unauthorized(invalid.to_string()),
        _ => Problem::bad_request(invalid.to_string()),
    })
}

fn narrowed(named: ConsumerId, asked: &[ConsumerId]) -> Result<Box<[ConsumerId]>, Problem> {
    match asked.iter().find(|asked| **asked != named) {
        None => Ok([named].into()),
        Some(other) => Err(Problem::forbidden(format!(
            "the header X-Consumer-Id names {:?}, so {:?} cannot be asked for",
            named.as_str(),
            other.as_str()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, StatusCode};

    use super::*;

    fn check(header: &[&str], query: &str) -> Result<String, u16> {
        let mut headers = HeaderMap::new();
        for value in header {
            headers.append(CONSUMER, HeaderValue::from_str(value).unwrap());
        }
        let query = Query::of(&format!("/events?{query}").parse().unwrap()).unwrap_or_default();
        match consumers(&Principal::anybody(), &headers, &query) {
            Ok(consumers) => {
                let names: Vec<_> = consumers.iter().map(ConsumerId::as_str).collect();
                Ok(names.join(" "))
            }
            Err(problem) => {
                use axum::response::IntoResponse;
                Err(StatusCode::as_u16(&problem.into_response().status()))
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_named_is_one_line_or_refused(
            header in proptest::option::of("[ -~]{0,20}"),
            query in "[a-z=&%0-9A-F+]{0,40}",
        ) {
            let header: Vec<&str> = header.iter().map(String::as_str).collect();
            if let Ok(names) = check(&header, &query) {
                proptest::prop_assert!(!names.trim().is_empty());
                proptest::prop_assert!(!names.chars().any(char::is_control));
            }
        }
    }

    #[test]
    fn a_consumer_is_named_by_header_or_query() {
        assert_eq!(check(&["toto"], ""), Ok("toto".into()));
        assert_eq!(check(&[], "consumer=toto"), Ok("toto".into()));
        assert_eq!(check(&[], "consumer=a&consumer=b&consumer=a"), Ok("a b".into()));
        assert_eq!(check(&[], "consumer=%C5%BB%20x"), Ok("Ż x".into()));
    }

    #[test]
    fn nobody_is_nobody() {
        assert_eq!(check(&[], ""), Err(401));
        assert_eq!(check(&[""], ""), Err(401));
        assert_eq!(check(&[], "consumer="), Err(401));
    }

    #[test]
    fn a_query_narrows_the_header_and_never_widens_it() {
        assert_eq!(check(&["toto"], "consumer=toto"), Ok("toto".into()));
        assert_eq!(check(&["toto"], "consumer=other"), Err(403));
        assert_eq!(check(&["toto"], "consumer=toto&consumer=other"), Err(403));
    }

    #[test]
    fn one_connection_follows_so_many_and_no_more() {
        let query = |many: usize| {
            (0..many).map(|at| format!("consumer={at}")).collect::<Vec<_>>().join("&")
        };
        assert!(check(&[], &query(MOST)).is_ok());
        assert_eq!(check(&[], &query(MOST + 1)), Err(400));
    }

    #[test]
    fn what_is_ambiguous_or_unreadable_is_refused() {
        assert_eq!(check(&["a", "b"], ""), Err(400));
        assert_eq!(check(&["a", "a"], ""), Err(400));
        assert_eq!(check(&[], "consumer=a%0Ab"), Err(400));
        assert_eq!(check(&[&"x".repeat(2000)], ""), Err(400));
    }
}
