//! Broken servers: every failure is an error of the download alone.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{Changing, NEVER, failure, get, with_policy};
use crate::error::Kind;
use crate::fetch::test_server::{TestServer, is_loopback, response};
use crate::fetch::{FetchPolicy, Fetcher};

#[test]
fn any_other_status_than_200_fails_without_an_echo() {
    for status in ["404 secret", "500 Oops", "204 No Content", "206 Partial Content", "304 Not Modified", "418 Tea"] {
        let server = TestServer::with(&[("/?token=secret", response(status, "X: secret\r\n", b"secret words"))]);
        let (kind, message) = failure(&server.fetcher(), &server.url("/?token=secret"));
        let expected = format!("{}: the server answered with status {}", server.url("/"), &status[..3]);
        assert_eq!((kind, message), (Kind::Fetch, expected));
    }
}

#[test]
fn broken_servers_are_failures_of_the_other_side() {
    let huge = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 200_000], b"\r\n\r\n".to_vec()].concat();
    for broken in [
        b"".to_vec(),
        b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
        b"HTTP/9.9 200 OK\r\n\r\n".to_vec(),
        b"HTTP/1.1 2000 OK\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc".to_vec(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nabc".to_vec(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab".to_vec(),
        huge,
    ] {
        let text = String::from_utf8_lossy(&broken[..broken.len().min(60)]).into_owned();
        let server = TestServer::with(&[("/", broken)]);
        let (kind, message) = failure(&server.fetcher(), &server.url("/"));
        assert_eq!(kind, Kind::Fetch, "{text:?}: {message}");
        assert!(!message.chars().any(char::is_control), "{message:?}");
    }
}

#[test]
fn a_closed_port_is_a_failure_of_the_other_side() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let hosts = format!("video.test:{port}").parse().expect("a list");
    let fetcher = Fetcher::new(FetchPolicy { hosts, ..FetchPolicy::default() })
        .with_resolver(Changing::new(&[[127, 0, 0, 1]]))
        .admitting(is_loopback);
    let (kind, message) = failure(&fetcher, &format!("http://video.test:{port}/"));
    assert_eq!(kind, Kind::Fetch);
    assert!(message.contains("the connection failed: "), "{message}");
}

#[test]
fn mutated_responses_neither_hang_nor_panic() {
    let whole = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nTransfer-Encoding: chunked\r\nLocation: /x\r\n\r\n\
                  5\r\nabcde\r\n3\r\nfgh\r\n0\r\n\r\n";
    let seed = Arc::new(AtomicU32::new(0x9e37_79b9));
    let server = TestServer::start(move |_, stream| {
        let mut bytes = whole.to_vec();
        let next = || {
            let mut x = seed.load(Ordering::Relaxed);
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            seed.store(x, Ordering::Relaxed);
            x
        };
        for _ in 0..1 + next() % 4 {
            let at = next() as usize % bytes.len();
            match next() % 3 {
                0 => bytes[at] = next() as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, next() as u8),
            }
        }
        stream.write_all(&bytes)
    });
    let fetcher = with_policy(&server, |policy| policy.time = Duration::from_secs(20));
    let mut kinds = BTreeSet::new();
    for _ in 0..400 {
        match get(&fetcher, &server.url("/")) {
            Ok((content, _)) => assert!(content.len() < 100),
            Err(error) => {
                kinds.insert(error.kind().word());
            }
        }
    }
    assert!(kinds.contains("fetch"), "{kinds:?}");
    assert!(kinds.iter().all(|kind| ["fetch", "refused"].contains(kind)), "{kinds:?}");
}

#[test]
fn a_writer_that_fails_ends_the_download() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let server = TestServer::with(&[("/", response("200 OK", "", b"abc"))]);
    let error = server.fetcher().fetch(&server.url("/"), &mut Full, NEVER).expect_err("full");
    assert_eq!(error.kind(), Kind::Unreadable);
}
