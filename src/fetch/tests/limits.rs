//! Limits of bytes and time, and downloads that their callers stop.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{NEVER, failure, get, with_policy};
use crate::error::Kind;
use crate::fetch::Resolve;
use crate::fetch::test_server::{TestServer, redirect, response};

#[test]
fn a_declared_length_over_the_limit_is_refused_before_a_byte_is_written() {
    let declared = b"HTTP/1.1 200 OK\r\nContent-Length: 2097152\r\n\r\nabc".to_vec();
    let server = TestServer::with(&[("/", declared)]);
    let fetcher = with_policy(&server, |policy| policy.max_bytes = 1 << 20);
    let mut content = Vec::new();
    let error = fetcher.fetch(&server.url("/"), &mut content, NEVER).expect_err("too large");
    assert_eq!(error.kind(), Kind::TooLarge);
    let message = format!("{}: at least 2.0 MiB, over the limit of 1.0 MiB for a download", server.url("/"));
    assert_eq!((error.to_string(), content.len()), (message, 0));
}

#[test]
fn a_content_without_a_length_is_counted() {
    let server = TestServer::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        loop {
            stream.write_all(b"1000\r\n")?;
            stream.write_all(&[7; 0x1000])?;
            stream.write_all(b"\r\n")?;
        }
    });
    let fetcher = with_policy(&server, |policy| policy.max_bytes = 100_000);
    let mut content = Vec::new();
    let error = fetcher.fetch(&server.url("/"), &mut content, NEVER).expect_err("endless");
    assert_eq!(error.kind(), Kind::TooLarge);
    assert!(content.len() <= 100_000);
    let exact = TestServer::with(&[("/", response("200 OK", "", &[1; 1000]))]);
    let fetcher = with_policy(&exact, |policy| policy.max_bytes = 1000);
    assert_eq!(get(&fetcher, &exact.url("/")).expect("as many as allowed").0.len(), 1000);
}

#[test]
fn compressed_contents_do_not_grow_over_the_limit() {
    // One MiB of zeros in 1 kB: gzip -9 of `head -c 1M /dev/zero`.
    let bomb = STANDARD.decode(include_str!("zeros.gz.base64").trim()).expect("base64");
    assert!(bomb.len() < 2000);
    let server = TestServer::with(&[
        ("/gzip", response("200 OK", "Content-Encoding: gzip\r\n", &bomb)),
        ("/br", response("200 OK", "Content-Encoding: br\r\n", &bomb)),
        ("/list", response("200 OK", "Content-Encoding: gzip, gzip\r\n", &bomb)),
    ]);
    let fetcher = with_policy(&server, |policy| policy.max_bytes = 100_000);
    assert!([Kind::TooLarge, Kind::Fetch].contains(&failure(&fetcher, &server.url("/gzip")).0));
    for path in ["/br", "/list"] {
        assert_eq!(failure(&fetcher, &server.url(path)).0, Kind::Fetch, "{path}");
    }
}

/// Server that sends the beginning of a response, then one byte after another for ever.
fn dripping(beginning: &'static [u8]) -> TestServer {
    TestServer::start(move |_, stream| {
        stream.write_all(beginning)?;
        loop {
            stream.write_all(b"x")?;
            std::thread::sleep(Duration::from_millis(10));
        }
    })
}

#[test]
fn a_server_that_drips_ends_at_the_deadline() {
    for beginning in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFF\r\n",
    ] {
        let server = dripping(beginning);
        let fetcher = with_policy(&server, |policy| policy.time = Duration::from_millis(400));
        let start = Instant::now();
        let (kind, message) = failure(&fetcher, &server.url("/"));
        // A response without a status line may be given up as broken earlier.
        let is_broken = beginning.is_empty() && kind == Kind::Fetch;
        assert!(kind == Kind::TimeLimit || is_broken, "{message}");
        assert!(is_broken || message.ends_with("the download took longer than the limit of 0.4 s"), "{message}");
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    }
}

#[test]
fn redirects_share_one_deadline() {
    let server = TestServer::start(|_, stream| {
        std::thread::sleep(Duration::from_millis(150));
        stream.write_all(&redirect("/"))
    });
    let fetcher = with_policy(&server, |policy| {
        policy.time = Duration::from_millis(400);
        policy.max_redirects = 1000;
    });
    assert_eq!(failure(&fetcher, &server.url("/")).0, Kind::TimeLimit);
    assert!(server.requests().len() <= 3);
}

#[test]
fn a_look_up_without_an_end_is_given_up() {
    struct Silent;
    impl Resolve for Silent {
        fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
            loop {
                std::thread::park();
            }
        }
    }
    let server = TestServer::with(&[]);
    let fetcher = with_policy(&server, |policy| policy.time = Duration::from_millis(200));
    assert_eq!(failure(&fetcher.with_resolver(Arc::new(Silent)), &server.url("/")).0, Kind::TimeLimit);
}

#[test]
fn a_caller_stops_a_download_and_its_connection() {
    let is_wanted = Arc::new(AtomicBool::new(true));
    let (told, is_closed) = (is_wanted.clone(), Arc::new(AtomicBool::new(false)));
    let closed = is_closed.clone();
    let server = TestServer::start(move |_, stream| {
        told.store(false, Ordering::SeqCst);
        // Returns at the end of the connection.
        let _ = stream.read(&mut [0]);
        closed.store(true, Ordering::SeqCst);
        Ok(())
    });
    let error = server.fetcher().fetch(&server.url("/"), &mut Vec::new(), &|| !is_wanted.load(Ordering::SeqCst));
    assert_eq!(error.expect_err("stopped").kind(), Kind::Halted);
    let start = Instant::now();
    while !is_closed.load(Ordering::SeqCst) {
        assert!(start.elapsed() < Duration::from_secs(30), "the connection stays open");
        std::thread::sleep(Duration::from_millis(5));
    }
}
