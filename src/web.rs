//! The HTTP client.

use reqwest::ClientBuilder;
use rustls::crypto::ring;

use crate::tls;

/// Returns a builder for a client that verifies certificates with the root certificates of the system.
pub fn client() -> ClientBuilder {
    let mut config =
        tls::client().with_root_certificates(tls::system_roots()).with_no_client_auth();
    config.alpn_protocols = vec!["http/1.1".into()];
    let agent = concat!("event-piper/", env!("CARGO_PKG_VERSION"));
    reqwest::Client::builder().user_agent(agent).tls_backend_preconfigured(config)
}

/// Returns a builder for a client that does not verify certificates. It is for requests to the gateway on this
/// machine, whose certificate is issued for its public name.
pub fn without_verification() -> ClientBuilder {
    // reqwest's own verifier for this case uses the default provider of the process. Installing it twice is harmless.
    let _ = ring::default_provider().install_default();
    reqwest::Client::builder().tls_danger_accept_invalid_certs(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_can_be_built_without_root_certificates() {
        client().build().unwrap();
        without_verification().build().unwrap();
    }
}
