//! Suggestions for misspelt names.

/// Returns the known name that is most similar to `given`. `None` if none is similar enough.
#[must_use]
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Bound the length, because the time grows with its square. No known name is longer.
    let given: String = given.chars().take(64).collect();
    let given = given.to_ascii_lowercase().replace('_', "-");
    let distance =
        |name: &str| strsim::osa_distance(&given, &name.to_ascii_lowercase().replace('_', "-"));
    let (distance, name) = known.into_iter().map(|it| (distance(it), it)).min_by_key(|it| it.0)?;
    (distance * 3 <= name.len().max(3)).then_some(name)
}

/// Returns the end of an error about an unknown name, such as `: did you mean heartbeat?`; empty without a
/// suggestion.
#[must_use]
pub fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(given, known).map(|it| format!(": did you mean {it}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_similar_names_only() {
        let known = ["types", "lastEventId", "wait", "EVENT_PIPER_HEARTBEAT"];
        for (given, meant) in [
            ("type", Some("types")),
            ("lastEventID", Some("lastEventId")),
            ("last_event_id", Some("lastEventId")),
            ("EVENT_PIPER_HEARBEAT", Some("EVENT_PIPER_HEARTBEAT")),
            ("wiat", Some("wait")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, known), meant, "{given}");
        }
        assert_eq!(did_you_mean("tipes", known), ": did you mean types?");
        assert_eq!(did_you_mean("x", known), "");
    }
}
