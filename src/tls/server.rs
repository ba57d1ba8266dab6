//! What rustls is to do with the clients of a route.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{ServerConfig, SupportedProtocolVersion, version};

use super::certificates::Certificates;
use crate::config::model::{MinVersion, RouteTls};

/// Newest first.
const VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
const ONLY_13: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// The settings of the route with this `tls`; to be made once for a generation and shared by its sessions.
///
/// Sessions are resumed by `tickets` alone, which have to be those of the route. No early data is taken: it could be
/// replayed.
pub(crate) fn server_config(
    tls: &RouteTls,
    certificates: Arc<Certificates>,
    tickets: Arc<dyn ProducesTickets>,
) -> Arc<ServerConfig> {
    let versions = match tls.min_version {
        MinVersion::Tls12 => VERSIONS,
        MinVersion::Tls13 => ONLY_13,
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(provider())).with_protocol_versions(versions);
    #[expect(clippy::expect_used, reason = "it asks whether the provider's suites and groups serve the versions")]
    let builder = builder.expect("the provider serves TLS 1.2 and 1.3");
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets;
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// The key exchange that no quantum computer undoes comes first.
fn provider() -> CryptoProvider {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    CryptoProvider { kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1], ..aws_lc_rs::default_provider() }
}
