//! The query of a request, and the parameters that a route takes.
//!
//! Each route declares its parameters. Unknown ones are refused: if a misspelt parameter were ignored, the
//! client would get other events than it asked for.

use std::borrow::Cow;

use axum::{
    extract::Request,
    http::Uri,
    middleware::{self, Next},
    response::IntoResponse,
    routing::MethodRouter,
};
use percent_encoding::percent_decode;

use super::error::Problem;

/// The decoded pairs of names and values of a query, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the query of a URI.
    pub(super) fn of(uri: &Uri) -> Result<Self, Problem> {
        let query = uri.query().unwrap_or_default().as_bytes();
        let pairs = query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
            let value = pair.get(at + 1..).unwrap_or_default();
            Ok((decoded(&pair[..at])?, decoded(value)?))
        });
        pairs.collect::<Result<_, Problem>>().map(Self)
    }

    /// All values of the parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.iter().filter(move |(key, _)| key == name);
        pairs.map(|(_, value)| value.as_str())
    }

    /// Refuses parameters that do not apply, with the reason.
    pub(super) fn has_none_of(&self, names: &[&str], why: &str) -> Result<(), Problem> {
        match names.iter().find(|name| self.first(name).is_some()) {
            Some(name) => Err(Problem::bad_request(format!("?{name}= does not apply here: {why}"))),
            None => Ok(()),
        }
    }

    /// The first value of the parameter.
    #[must_use]
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Decodes form encoding (WHATWG URL, section 5.1), but refuses invalid UTF-8, because replacement
/// characters would make different names equal.
fn decoded(text: &[u8]) -> Result<String, Problem> {
    let spaced: Cow<[u8]> = match memchr::memchr(b'+', text) {
        None => text.into(),
        Some(_) => text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect(),
    };
    let decoded = percent_decode(&spaced).decode_utf8();
    decoded
        .map(Cow::into_owned)
        .map_err(|_| Problem::bad_request("the query is not UTF-8 in percent-encoding"))
}

/// A query parameter that a route takes.
#[derive(Debug)]
pub(super) struct Parameter {
    name: &'static str,
    repeated: bool,
    empty: bool,
}

impl Parameter {
    /// A parameter that may occur once, with a value.
    pub(super) const fn one(name: &'static str) -> Self {
        Self { name, repeated: false, empty: false }
    }

    /// A parameter that may be repeated.
    pub(super) const fn many(name: &'static str) -> Self {
        Self { repeated: true, ..Self::one(name) }
    }

    /// Allows an empty value, whose meaning the handler determines.
    pub(super) const fn or_empty(self) -> Self {
        Self { empty: true, ..self }
    }
}

/// Adds a check to the routes that refuses all query parameters except these.
pub(super) fn takes<S: Clone + Send + Sync + 'static>(
    parameters: &'static [Parameter],
    routes: MethodRouter<S>,
) -> MethodRouter<S> {
    routes.route_layer(middleware::from_fn(move |request: Request, next: Next| async move {
        match check(parameters, request.uri()) {
            Ok(()) => next.run(request).await,
            Err(problem) => problem.into_response(),
        }
    }))
}

fn check(parameters: &[Parameter], uri: &Uri) -> Result<(), Problem> {
    let query = Query::of(uri)?;
    for (at, (name, value)) in query.0.iter().enumerate() {
        let Some(known) = parameters.iter().find(|known| known.name == name) else {
            return Err(unknown(parameters, name));
        };
        if !known.repeated && query.0[..at].iter().any(|(earlier, _)| earlier == name) {
            let detail = format!("?{name}= is given twice: give it once");
            return Err(Problem::bad_request(detail));
        }
        if value.is_empty() && !known.empty {
            let detail = format!("?{name}= is empty: leave it out, or give it a value");
            return Err(Problem::bad_request(detail));
        }
    }
    Ok(())
}

/// The number of characters of an unknown name that are repeated in the error.
const MAX_SHOWN_CHARS: usize = 64;

/// The least similarity of a name that is suggested, from 0 to 1.
const MIN_SIMILARITY: f64 = 0.75;

fn unknown(parameters: &[Parameter], name: &str) -> Problem {
    let shown: String = name.chars().take(MAX_SHOWN_CHARS).collect();
    let names: Vec<_> = parameters.iter().map(|known| known.name).collect();
    if names.is_empty() {
        let detail = format!("there is no query parameter {shown:?}: this address takes none");
        return Problem::bad_request(detail);
    }
    let similarity = |known: &str| strsim::jaro_winkler(&normalized(known), &normalized(&shown));
    let nearest = names.iter().map(|known| (similarity(known), known));
    let nearest = nearest.max_by(|one, other| one.0.total_cmp(&other.0));
    let meant = match nearest {
        Some((similarity, known)) if similarity >= MIN_SIMILARITY => {
            format!(", did you mean {known:?}?")
        }
        _ => ":".to_owned(),
    };
    let all = names.join(", ");
    Problem::bad_request(format!(
        "there is no query parameter {shown:?}{meant} This address takes {all}"
    ))
}

/// The name in lower case and without separators between words.
fn normalized(name: &str) -> String {
    let letters = name.chars().filter(|char| !matches!(char, '-' | '_' | '.' | ' '));
    letters.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMETERS: &[Parameter] = &[
        Parameter::many("consumer").or_empty(),
        Parameter::one("lastEventId"),
        Parameter::many("types"),
    ];

    fn checked(query: &str) -> Result<(), String> {
        let uri = format!("/events?{query}").parse().unwrap();
        check(PARAMETERS, &uri).map_err(|problem| problem.detail().to_owned())
    }

    #[test]
    fn suggests_the_nearest_known_parameter() {
        for (name, meant) in [
            ("lastEventID", "lastEventId"),
            ("last-event-id", "lastEventId"),
            ("Last_Event_Id", "lastEventId"),
            ("lasteventid", "lastEventId"),
            ("LastEventId", "lastEventId"),
            ("type", "types"),
            ("tpyes", "types"),
            ("consumers", "consumer"),
            ("consumer%5B%5D", "consumer"),
        ] {
            let refused = checked(&format!("{name}=1")).unwrap_err();
            assert!(refused.contains(&format!("did you mean {meant:?}?")), "{name}: {refused}");
        }
        let refused = checked("xyz=1").unwrap_err();
        assert!(!refused.contains("mean") && refused.contains("lastEventId"), "{refused}");
        assert!(checked(&format!("{}=1", "x".repeat(5000))).unwrap_err().len() < 300);
        let none = check(&[], &"/healthz?a".parse().unwrap()).unwrap_err();
        assert!(none.detail().contains("takes none"));
    }

    #[test]
    fn rejects_repeated_and_empty_parameters() {
        assert!(checked("consumer=a&consumer=b&lastEventId=1&types=x&types=y").is_ok());
        assert!(checked("lastEventId=1&lastEventId=2").unwrap_err().contains("twice"));
        assert!(checked("lastEventId=1&lastEventId=1").unwrap_err().contains("twice"));
        for empty in ["lastEventId=", "lastEventId", "types=", "types=x&types="] {
            assert!(checked(empty).unwrap_err().contains("empty"), "{empty}");
        }
        assert!(checked("consumer=").is_ok(), "the handler reports the error");
        assert!(checked("").is_ok() && checked("&").is_ok());
    }

    #[test]
    fn decodes_values_without_changing_them() {
        let value = |query: &str| {
            let query = Query::of(&format!("/?{query}").parse().unwrap());
            query.map(|query| query.first("a").unwrap_or_default().to_owned()).ok()
        };
        assert_eq!(value("a=%C5%BB+x%2B").as_deref(), Some("Ż x+"));
        assert_eq!(value("a=%C2%A0b%C2%A0").as_deref(), Some("\u{a0}b\u{a0}"));
        assert_eq!(value("a=b=c&a=d").as_deref(), Some("b=c"));
        assert_eq!(value("a=100%").as_deref(), Some("100%"));
        assert_eq!(value("%61=b").as_deref(), Some("b"));
        for wrong in ["a=%FF", "a=%C3%28", "%FF=a", "a=%ED%A0%80"] {
            assert_eq!(value(wrong), None, "{wrong}");
        }
    }
}
