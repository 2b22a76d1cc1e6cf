//! Who is asking.
//!
//! Until there are other proofs, a consumer is named by the `X-Consumer-Id` header, which
//! something in front has set, or in the open mode by the query, since a browser's
//! `EventSource` can set no header. A query beside the header can narrow it, never widen it.

use axum::http::HeaderMap;

use super::{Auth, error::Problem, query::Query};
use crate::consumer::{ConsumerId, InvalidConsumer};

/// The header that names the consumer.
pub(super) const CONSUMER: &str = "x-consumer-id";

/// As many consumers one connection may follow.
const MOST: usize = 32;

/// The consumers that a request is about: at least one.
pub(super) fn consumers(
    auth: Auth,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Box<[ConsumerId]>, Problem> {
    let asked = asked(query)?;
    match (header(headers)?, auth) {
        (Some(named), _) => narrowed(named, &asked),
        (None, Auth::Open) if !asked.is_empty() => Ok(asked.into()),
        (None, Auth::Open) => Err(Problem::unauthorized(
            "name the consumer: with the header X-Consumer-Id, or with ?consumer= in the address",
        )),
        (None, Auth::TrustedHeader) => Err(Problem::unauthorized(
            "the header X-Consumer-Id is missing: what stands in front of EventPiper sets it",
        )),
    }
}

/// The consumers that a request is about, where it names any.
pub(super) fn any_consumers(
    auth: Auth,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Option<Box<[ConsumerId]>>, Problem> {
    let named = headers.contains_key(CONSUMER) || query.first("consumer").is_some();
    if auth == Auth::Open && !named {
        return Ok(None);
    }
    consumers(auth, headers, query).map(Some)
}

fn header(headers: &HeaderMap) -> Result<Option<ConsumerId>, Problem> {
    let mut values = headers.get_all(CONSUMER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::bad_request("the header X-Consumer-Id was sent more than once"));
    }
    let name = std::str::from_utf8(value.as_bytes())
        .map_err(|_| Problem::bad_request("the header X-Consumer-Id is not UTF-8"))?;
    named(name.trim()).map(Some)
}

fn asked(query: &Query) -> Result<Vec<ConsumerId>, Problem> {
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
        InvalidConsumer::Empty => Problem::unauthorized(invalid.to_string()),
        InvalidConsumer::TooLong | InvalidConsumer::Control => {
            Problem::bad_request(invalid.to_string())
        }
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

    fn check(auth: Auth, header: &[&str], query: &str) -> Result<String, u16> {
        let mut headers = HeaderMap::new();
        for value in header {
            headers.append(CONSUMER, HeaderValue::from_str(value).unwrap());
        }
        let query = Query::of(&format!("/events?{query}").parse().unwrap());
        match consumers(auth, &headers, &query) {
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
            for auth in [Auth::Open, Auth::TrustedHeader] {
                if let Ok(names) = check(auth, &header, &query) {
                    proptest::prop_assert!(!names.trim().is_empty());
                    proptest::prop_assert!(!names.chars().any(char::is_control));
                }
            }
        }
    }

    #[test]
    fn a_consumer_is_named_by_header_or_query() {
        use Auth::{Open, TrustedHeader};
        assert_eq!(check(Open, &["toto"], ""), Ok("toto".into()));
        assert_eq!(check(Open, &[], "consumer=toto"), Ok("toto".into()));
        assert_eq!(check(Open, &[], "consumer=a&consumer=b&consumer=a"), Ok("a b".into()));
        assert_eq!(check(Open, &[], "consumer=%C5%BB%20x"), Ok("Ż x".into()));
        assert_eq!(check(TrustedHeader, &["toto"], ""), Ok("toto".into()));
    }

    #[test]
    fn nobody_is_nobody() {
        use Auth::{Open, TrustedHeader};
        assert_eq!(check(Open, &[], ""), Err(401));
        assert_eq!(check(Open, &[""], ""), Err(401));
        assert_eq!(check(Open, &[], "consumer="), Err(401));
        assert_eq!(check(TrustedHeader, &[], "consumer=toto"), Err(401));
    }

    #[test]
    fn a_query_narrows_the_header_and_never_widens_it() {
        assert_eq!(check(Auth::TrustedHeader, &["toto"], "consumer=toto"), Ok("toto".into()));
        assert_eq!(check(Auth::TrustedHeader, &["toto"], "consumer=other"), Err(403));
        assert_eq!(check(Auth::Open, &["toto"], "consumer=toto&consumer=other"), Err(403));
    }

    #[test]
    fn what_is_ambiguous_or_unreadable_is_refused() {
        assert_eq!(check(Auth::Open, &["a", "b"], ""), Err(400));
        assert_eq!(check(Auth::Open, &["a", "a"], ""), Err(400));
        assert_eq!(check(Auth::Open, &[], "consumer=a%0Ab"), Err(400));
        assert_eq!(check(Auth::Open, &[&"x".repeat(2000)], ""), Err(400));
    }
}
