//! HTTP as a client.

use reqwest::ClientBuilder;
use rustls::crypto::ring;

use crate::tls;

/// A client for HTTP, and for HTTPS with servers that the operating system trusts.
pub fn client() -> ClientBuilder {
    let mut config =
        tls::client().with_root_certificates(tls::system_roots()).with_no_client_auth();
    config.alpn_protocols = vec!["http/1.1".into()];
    let agent = concat!("event-piper/", env!("CARGO_PKG_VERSION"));
    reqwest::Client::builder().user_agent(agent).tls_backend_preconfigured(config)
}

/// A client for HTTP, and for HTTPS with anybody: for the gateway on this machine, whose certificate is
/// for the name that others know it by.
pub fn for_anybody() -> ClientBuilder {
    // Such a verifier is reqwest's own, which looks for a provider there. It is always the same.
    let _ = ring::default_provider().install_default();
    reqwest::Client::builder().tls_danger_accept_invalid_certs(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_can_be_made_wherever_it_runs() {
        client().build().unwrap();
        for_anybody().build().unwrap();
    }
}
