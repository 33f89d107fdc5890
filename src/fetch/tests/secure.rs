//! HTTPS: a server whose certificate nobody vouches for gets no request.
//!
//! `self_signed.cert.der` is a certificate of `video.test`, made by `openssl req -x509 -newkey ec`; its key opens
//! nothing.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::{Changing, failure};
use crate::error::Kind;
use crate::fetch::test_server::is_loopback;
use crate::fetch::{FetchPolicy, Fetcher};

/// Name that a client asked for, and whether its handshake was completed.
struct SeenHandshake {
    name: Option<String>,
    is_complete: bool,
}

/// Starts a server that makes one handshake. Returns its port.
fn secure_server() -> (u16, Receiver<SeenHandshake>) {
    let certificate = CertificateDer::from(&include_bytes!("self_signed.cert.der")[..]);
    let key = PrivateKeyDer::Pkcs8(include_bytes!("self_signed.key.der")[..].into());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![certificate], key))
        .expect("a configuration");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (sender, seen) = bounded(1);
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut connection = ServerConnection::new(Arc::new(config)).expect("a connection");
        let handshake = connection.complete_io(&mut stream);
        // A client may refuse the certificate after the server's own part is complete.
        let refusal = handshake.and_then(|_| connection.complete_io(&mut stream));
        let name = connection.server_name().map(str::to_owned);
        sender.send(SeenHandshake { name, is_complete: refusal.is_ok_and(|(n_read, _)| n_read > 0) }).expect("a test");
    });
    (port, seen)
}

fn fetcher(port: u16) -> Fetcher {
    let hosts = format!("video.test:{port}").parse().expect("a list");
    Fetcher::new(FetchPolicy { hosts, ..FetchPolicy::default() })
        .with_resolver(Changing::new(&[[127, 0, 0, 1]]))
        .admitting(is_loopback)
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let (port, seen) = secure_server();
    let (kind, message) = failure(&fetcher(port), &format!("https://video.test:{port}/a?token=secret"));
    assert_eq!(kind, Kind::Fetch);
    let beginning = format!("https://video.test:{port}/a: no secure connection: invalid peer certificate: ");
    assert!(message.starts_with(&beginning), "{message}");
    let seen = seen.recv().expect("a handshake");
    assert_eq!((seen.name.as_deref(), seen.is_complete), (Some("video.test"), false));
}

#[test]
fn a_server_without_tls_is_a_failure_of_the_other_side() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("a client");
        // Returns once the client is gone.
        std::io::copy(&mut stream, &mut std::io::sink())
    });
    let (kind, message) = failure(&fetcher(port), &format!("https://video.test:{port}/"));
    assert_eq!(kind, Kind::Fetch);
    assert!(message.contains(": no secure connection: "), "{message}");
}
