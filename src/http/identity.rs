//! The consumers that a request is about.
//!
//! A request names its consumer in the header `X-Consumer-Id`, or in the query, because a browser's
//! `EventSource` cannot set headers. Otherwise it is the consumer of the token or key. A query can narrow
//! the header, but never widen it. The principal must have the right to read each consumer.

use axum::http::HeaderMap;

use super::{error::Problem, field, query::Query};
use crate::{
    access::principal::{Kind, Principal},
    consumer::{ConsumerId, InvalidConsumer},
    event::name::InvalidName,
};

/// The header that names the consumer.
pub(super) const CONSUMER: &str = "x-consumer-id";

/// The number of consumers that one connection may follow.
const MAX_CONSUMERS: usize = 32;

/// The consumers that a request is about: at least one, and the principal may read all of them.
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

/// The consumers that a request names. `None`: it names none.
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

/// The consumer of a request that names none: that of its token or key.
fn own(who: &Principal) -> Result<ConsumerId, Problem> {
    who.consumer().cloned().ok_or_else(|| match who.kind() {
        Kind::Open => Problem::unauthorized(
            "no consumer is named: send the header X-Consumer-Id, or ?consumer= in the address",
        ),
        kind => Problem::bad_request(format!(
            "this {} has no consumer of its own: send ?consumer= in the address",
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
        if asked.len() > MAX_CONSUMERS {
            let detail = format!("one connection can follow at most {MAX_CONSUMERS} consumers");
            return Err(Problem::bad_request(detail));
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
            "the header X-Consumer-Id names {:?}, so ?consumer= cannot name {:?}",
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
        match consumers(&Principal::open(), &headers, &query) {
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
        fn accepts_only_names_of_one_line(
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
    fn reads_the_consumer_from_header_or_query() {
        assert_eq!(check(&["toto"], ""), Ok("toto".into()));
        assert_eq!(check(&[], "consumer=toto"), Ok("toto".into()));
        assert_eq!(check(&[], "consumer=a&consumer=b&consumer=a"), Ok("a b".into()));
        assert_eq!(check(&[], "consumer=%C5%BB%20x"), Ok("Ż x".into()));
    }

    #[test]
    fn rejects_a_request_without_a_consumer() {
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
    fn limits_the_consumers_of_a_connection() {
        let query = |many: usize| {
            (0..many).map(|at| format!("consumer={at}")).collect::<Vec<_>>().join("&")
        };
        assert!(check(&[], &query(MAX_CONSUMERS)).is_ok());
        assert_eq!(check(&[], &query(MAX_CONSUMERS + 1)), Err(400));
    }

    #[test]
    fn rejects_ambiguous_and_malformed_names() {
        assert_eq!(check(&["a", "b"], ""), Err(400));
        assert_eq!(check(&["a", "a"], ""), Err(400));
        assert_eq!(check(&[], "consumer=a%0Ab"), Err(400));
        assert_eq!(check(&[&"x".repeat(2000)], ""), Err(400));
    }
}
