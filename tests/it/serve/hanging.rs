//! Media whose reading never ends, and clients that leave meanwhile: others are answered, and nothing is left behind.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{PATIENCE, Server, about, with};

/// Path of the first file in the scratch: the first upload, whose decoder hangs.
const HANGS: &str = "hang=m00000000";

/// Processes of a server that decode.
fn n_decoders(server: &Server) -> usize {
    let parent = server.child.id().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().map_while(Result::ok);
    let is_child = |entry: &std::fs::DirEntry| {
        // "PID (NAME) STATE PARENT ...": a process may have ended meanwhile.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let mut words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        words.next().is_some_and(|state| state != "Z") && words.next() == Some(&parent)
    };
    entries.filter(is_child).count()
}

fn wait_for_decoders(server: &Server, n: usize) {
    let deadline = Instant::now() + PATIENCE;
    while n_decoders(server) != n {
        assert!(Instant::now() < deadline, "{} processes decode: {}", n_decoders(server), server.log());
        sleep(Duration::from_millis(20));
    }
}

/// A server with an upload whose decoder hangs, and the id of the upload.
fn server() -> (Server, String) {
    let server = Server::with_fault(HANGS, &["--stall-limit", "10m"]);
    let id = upload(&server, b"any bytes");
    (server, id)
}

fn upload(server: &Server, bytes: &[u8]) -> String {
    let reply = server.send("POST", "/v1/videos", "", bytes);
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()["id"].as_str().unwrap().to_owned()
}

#[test]
fn readings_of_frames_are_few_and_end_with_their_clients() {
    let (server, id) = server();
    let path = format!("/v1/videos/{id}/frames");
    let begin = |_| {
        let mut stream = server.connect();
        stream.write_all(&server.request("GET", &path, "", b"")).unwrap();
        stream
    };
    // More than the requests whose media are read at once.
    let clients: Vec<TcpStream> = (0..40).map(begin).collect();
    wait_for_decoders(&server, 2);
    for _ in 0..20 {
        assert_eq!(server.get("/health").status, 200);
        assert_eq!(n_decoders(&server), 2);
    }
    let text = json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 2 });
    assert_eq!(server.complete(&text).status, 200);
    assert_eq!(server.answer("What color is the circle?"), "purple");
    drop(clients);
    wait_for_decoders(&server, 0);
    let video = std::fs::read(crate::harness::repository(super::VIDEO)).unwrap();
    let frames = server.get(&format!("/v1/videos/{}/frames", upload(&server, &video)));
    assert_eq!(frames.json()["data"].as_array().map(Vec::len), Some(8), "{}", frames.text());
}

#[test]
fn clients_that_leave_before_the_first_event_are_counted() {
    let (server, id) = server();
    for (n_gone, is_streamed) in [(1.0, true), (2.0, false)] {
        let body = with(about(&format!("upload:{id}"), "Why?"), json!({ "stream": is_streamed }));
        let mut stream = server.connect();
        stream.write_all(&server.request("POST", "/v1/chat/completions", "", body.to_string().as_bytes())).unwrap();
        // The medium is being probed.
        wait_for_decoders(&server, 1);
        drop(stream);
        wait_for_decoders(&server, 0);
        server.wait_for_metric("vidense_request_failure_total{status=\"499\"}", |n| n == n_gone);
    }
}

#[test]
fn media_that_hang_keep_few_requests_waiting() {
    let (server, id) = server();
    let body = about(&format!("upload:{id}"), "Why?").to_string();
    let request = server.request("POST", "/v1/chat/completions", "", body.as_bytes());
    let begin = |_| {
        let mut stream = server.connect();
        stream.write_all(&request).unwrap();
        stream
    };
    // More than are probed at once: those that hang leave their places.
    let mut clients: Vec<TcpStream> = (0..20).map(begin).collect();
    wait_for_decoders(&server, 20);
    assert_eq!(server.answer("What color is the circle?"), "purple", "other media are read beside them");
    // More than the requests whose media are read at once.
    clients.extend((20..40).map(begin));
    wait_for_decoders(&server, 32);
    let text = json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 2 });
    for _ in 0..20 {
        assert_eq!(server.complete(&text).status, 200);
        assert_eq!(server.get("/health").status, 200);
        assert_eq!(n_decoders(&server), 32);
    }
    // Other media wait only as long as those before them.
    drop(clients);
    assert_eq!(server.answer("What color is the circle?"), "purple");
    wait_for_decoders(&server, 0);
    server.wait_for_metric("vidense_request_failure_total{status=\"499\"}", |n| n == 40.0);
}
