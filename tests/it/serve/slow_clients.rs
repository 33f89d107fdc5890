//! Clients that are slow, or go away.

use std::io::{Read as _, Write as _};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{PATIENCE, Reply, Server, about_video, long_answer, with};

/// A step of a slow client.
const STEP: Duration = Duration::from_millis(50);

#[test]
fn a_slow_header_is_given_up() {
    let server = Server::start(&["--read-timeout", "300ms"]);
    let mut stream = server.connect();
    let begin = Instant::now();
    let mut closed = false;
    for byte in b"GET /health HTTP/1.1\r\nHost: ".iter().chain(std::iter::repeat_n(&b'x', 10_000)) {
        let is_gone = stream.write_all(&[*byte]).is_err();
        stream.set_read_timeout(Some(STEP)).unwrap();
        // The end of the connection, or the response to it.
        closed = is_gone || stream.read(&mut [0; 64]).is_ok();
        if closed || begin.elapsed() > PATIENCE {
            break;
        }
    }
    assert!(closed, "a byte every 50 ms for {:?}", begin.elapsed());
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_slow_body_is_given_up() {
    let server = Server::start(&["--read-timeout", "300ms"]);
    let mut stream = server.connect();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n",
        server.port
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut slow = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let begin = Instant::now();
        while slow.write_all(b" ").is_ok() && begin.elapsed() < PATIENCE {
            sleep(STEP);
        }
    });
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&bytes).contains("too slowly") {
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => break,
        }
    }
    Reply::parse(&bytes).assert_error(408, "RequestTimeoutError", "the body arrives too slowly");
    let _ = stream.shutdown(std::net::Shutdown::Both);
    writer.join().unwrap();
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn clients_that_send_nothing_take_no_memory_from_others() {
    let server = Server::start(&["--max-body", "2MiB", "--read-timeout", "110s"]);
    // Together they declare all of the memory.
    let slow = [2 << 20, 2 << 20].map(|n_bytes| server.post_without_body("/v1/chat/completions", n_bytes));
    assert_eq!(server.answer("What color is the circle?"), "purple");
    for mut stream in slow {
        stream.set_nonblocking(true).unwrap();
        let read = stream.read(&mut [0; 64]);
        let is_waiting = read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(is_waiting, "the answer came after the end of the slow clients: {}", server.log());
    }
}

#[test]
fn the_limit_of_a_request_holds_for_its_body_too() {
    let server = Server::start(&["--request-timeout", "300ms", "--read-timeout", "110s"]);
    let reply = Reply::read(server.post_without_body("/v1/chat/completions", 1000));
    reply.assert_error(504, "GatewayTimeoutError", "the answer took longer than the limit of 300ms");
}

#[test]
fn a_client_that_hangs_up_frees_its_sequence() {
    let server = Server::start(&[]);
    for is_streamed in [true, false] {
        let body = with(long_answer(), json!({ "stream": is_streamed }));
        let request = server.request("POST", "/v1/chat/completions", "", body.to_string().as_bytes());
        let mut stream = server.connect();
        stream.write_all(&request).unwrap();
        if is_streamed {
            assert!(stream.read(&mut [0; 64]).unwrap() > 0);
        } else {
            server.wait_for_metric("vidense_num_requests_running", |n| n > 0.0);
        }
        drop(stream);
        server.wait_for_metric("vidense_num_requests_running", |n| n == 0.0);
        server.wait_for_metric("vidense_num_requests_waiting", |n| n == 0.0);
    }
    assert_eq!(server.metric("vidense_request_success_total{finished_reason=\"length\"}"), 0.0, "{}", server.log());
    assert_eq!(server.answer("What color is the circle?"), "purple");
}

#[test]
fn requests_over_the_limits_are_told_to_come_again() {
    let server = Server::start(&["--max-requests", "1"]);
    let body = long_answer().to_string();
    let mut stream = server.connect();
    stream.write_all(&server.request("POST", "/v1/chat/completions", "", body.as_bytes())).unwrap();
    assert!(stream.read(&mut [0; 64]).unwrap() > 0);
    let refused = server.complete(&about_video("Why?"));
    refused.assert_error(429, "RateLimitError", "1 requests at once, the limit");
    assert_eq!(refused.header("retry-after"), Some("2"));
    assert_eq!(server.get("/health").status, 200, "health is no request of this limit");
    drop(stream);
}
