//! `GET /openapi.json`: the description of the HTTP interface.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

/// `docs/openapi.yaml` as JSON. A test compares the two, and can regenerate this file.
const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`.
pub(super) async fn document() -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")];
    (headers, DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// `EVENT_PIPER_WRITE_OPENAPI=1 cargo test --lib openapi` updates the file.
    #[test]
    fn the_document_matches_the_yaml_source() {
        let yaml = include_str!("../../docs/openapi.yaml");
        let yaml: Value = serde_saphyr::from_str(yaml).unwrap();
        let json = serde_json::to_string_pretty(&yaml).unwrap() + "\n";
        if std::env::var_os("EVENT_PIPER_WRITE_OPENAPI").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/openapi.json");
            std::fs::write(path, json).unwrap();
            return;
        }
        assert!(json == DOCUMENT, "src/http/openapi.json differs from docs/openapi.yaml");
    }
}
