//! What rustls is to do with the clients of a route.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{ServerConfig, SupportedProtocolVersion, version};

use super::certificates::Certificates;
use crate::config::model::{MinVersion, RouteTls};

/// Newest first.
const VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
const ONLY_13: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// The settings of the route with this `tls`; to be made once for a generation and shared by its sessions.
///
/// Sessions are resumed by `tickets` alone, which have to be those of the route and of what it asks of `clients`. No early
/// data is taken: it could be replayed.
pub(crate) fn server_config(
    tls: &RouteTls,
    certificates: Arc<Certificates>,
    tickets: Arc<dyn ProducesTickets>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Arc<ServerConfig> {
    let versions = match tls.min_version {
        MinVersion::Tls12 => VERSIONS,
        MinVersion::Tls13 => ONLY_13,
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(provider())).with_protocol_versions(versions);
    #[expect(clippy::expect_used, reason = "it asks whether the provider's suites and groups serve the versions")]
    let builder = builder.expect("the provider serves TLS 1.2 and 1.3");
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets;
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// The key exchange that no quantum computer undoes comes first.
pub(crate) fn provider() -> CryptoProvider {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    CryptoProvider { kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1], ..aws_lc_rs::default_provider() }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use rustls::client::Resumption;
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    use rustls::{
        AlertDescription, ClientConfig, ClientConnection, Error, HandshakeKind, RootCertStore, ServerConnection,
    };

    use super::*;
    use crate::tls::sample::{Folder, bundle};
    use crate::tls::tickets::{Secrets, Tickets};

    /// A route with a certificate for a.example.
    struct Route {
        folder: Folder,
        tls: RouteTls,
        secrets: Arc<Secrets>,
    }

    impl Route {
        fn new(alpn: &[&str], min_version: MinVersion) -> Route {
            let folder = Folder::new();
            folder.write("a.pem", bundle(&["a.example"], "p256"));
            let (loaded, problems) = Certificates::load(&[folder.path()], Vec::new(), None, SystemTime::now());
            assert!(problems.is_empty());
            let alpn = alpn.iter().map(|protocol| protocol.as_bytes().into()).collect();
            let tls = RouteTls {
                certificates: vec![folder.path()],
                default: None,
                alpn,
                min_version,
                handshake: std::time::Duration::from_secs(5),
                clients: None,
                loaded: Arc::new(loaded),
            };
            Route { folder, tls, secrets: Secrets::random(Instant::now()).unwrap() }
        }

        fn server(&self, route: &str) -> Arc<ServerConfig> {
            let tickets = Tickets::new(Arc::clone(&self.secrets), route, b"");
            server_config(&self.tls, Arc::clone(&self.tls.loaded), tickets, None)
        }

        fn client(&self, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> Arc<ClientConfig> {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(self.folder.join("a.pem")).unwrap()).unwrap();
            let builder = ClientConfig::builder_with_provider(Arc::new(provider()));
            let builder = builder.with_protocol_versions(versions).unwrap();
            let mut config = builder.with_root_certificates(roots).with_no_client_auth();
            config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
            config.resumption = Resumption::in_memory_sessions(8);
            Arc::new(config)
        }
    }

    /// Makes a handshake and has the tickets delivered.
    fn shake(
        server: &Arc<ServerConfig>,
        client: &Arc<ClientConfig>,
    ) -> Result<(ServerConnection, ClientConnection), Error> {
        let mut server = ServerConnection::new(Arc::clone(server))?;
        let mut client = ClientConnection::new(Arc::clone(client), "a.example".try_into().unwrap())?;
        while client.wants_write() || server.wants_write() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut &bytes[..]).unwrap();
            let taken = server.process_new_packets();
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut &bytes[..]).unwrap();
            // What the client is told says more than what the server found.
            client.process_new_packets()?;
            taken?;
        }
        Ok((server, client))
    }

    #[test]
    fn a_handshake() {
        let route = Route::new(&["h2", "http/1.1"], MinVersion::Tls12);
        let server = route.server("www");
        for (case, versions, alpn, expected) in [
            ("the newest", VERSIONS, &["http/1.1", "h2"][..], (version::TLS13.version, Some("h2"))),
            ("the oldest", &[&version::TLS12], &["http/1.1"], (version::TLS12.version, Some("http/1.1"))),
            ("no protocol", VERSIONS, &[], (version::TLS13.version, None)),
        ] {
            let (_, client) = shake(&server, &route.client(versions, alpn)).unwrap();
            let protocol = client.alpn_protocol().map(|protocol| std::str::from_utf8(protocol).unwrap());
            assert_eq!((client.protocol_version().unwrap(), protocol), expected, "{case}");
        }
        let (_, client) = shake(&server, &route.client(VERSIONS, &[])).unwrap();
        let group = client.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
        let refused = shake(&server, &route.client(VERSIONS, &["smtp"])).unwrap_err();
        assert_eq!(refused, Error::AlertReceived(AlertDescription::NoApplicationProtocol));
        let newer = Route::new(&[], MinVersion::Tls13);
        let refused = shake(&newer.server("www"), &newer.client(&[&version::TLS12], &[])).unwrap_err();
        assert_eq!(refused, Error::AlertReceived(AlertDescription::ProtocolVersion));
    }

    #[test]
    fn sessions_are_resumed_on_their_route_only() {
        let route = Route::new(&[], MinVersion::Tls12);
        for versions in [&[&version::TLS13], &[&version::TLS12]] {
            let client = route.client(versions, &[]);
            let kind = |server: &Arc<ServerConfig>| shake(server, &client).unwrap().0.handshake_kind().unwrap();
            let (www, other) = (route.server("www"), route.server("other"));
            assert_eq!(kind(&www), HandshakeKind::Full, "{versions:?}");
            assert_eq!(kind(&www), HandshakeKind::Resumed, "{versions:?}");
            assert_eq!(kind(&route.server("www")), HandshakeKind::Resumed, "{versions:?}: after a reload");
            assert_eq!(kind(&other), HandshakeKind::Full, "{versions:?}: of another route");
        }
    }

    #[test]
    fn a_handshake_keeps_what_it_has_and_the_next_gets_the_new_one() {
        let route = Route::new(&[], MinVersion::Tls12);
        let server = route.server("www");
        let old = route.client(VERSIONS, &[]);
        let mut held = ServerConnection::new(Arc::clone(&server)).unwrap();
        let mut client = ClientConnection::new(Arc::clone(&old), "a.example".try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        held.read_tls(&mut &bytes[..]).unwrap();
        held.process_new_packets().unwrap();
        route.folder.write("a.pem", bundle(&["a.example"], "p256"));
        assert_eq!(route.tls.loaded.look(SystemTime::now()).1, []);
        bytes.clear();
        held.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut &bytes[..]).unwrap();
        client.process_new_packets().unwrap();
        assert!(!client.is_handshaking());
        let new = route.client(VERSIONS, &[]);
        assert!(shake(&server, &new).is_ok());
        // Trusts the old certificate alone, and has no ticket.
        let refused = shake(&server, &old).unwrap_err();
        assert!(matches!(refused, Error::InvalidCertificate(_)), "{refused}");
    }
}
