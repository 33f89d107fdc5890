//! Beginning and end of a server: loading, signals, kills.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use super::{PATIENCE, Reply, Server, long_answer, vidense};

#[test]
fn a_model_that_does_not_load_ends_the_server() {
    let output = vidense().args(["serve", "--model", "no-model", "--listen", "127.0.0.1:0"]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.starts_with("listening on http://127.0.0.1:"), "{message}");
    assert!(message.contains("no-model: no such directory, and not a hub id"), "{message}");
    let output = vidense().args(["serve", "--listen", "127.0.0.1:notaport"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn requests_in_progress_are_finished_after_a_signal() {
    let mut server = Server::start(&[]);
    let mut stream = server.connect();
    let request = server.request("POST", "/v1/chat/completions", "", long_answer().to_string().as_bytes());
    stream.write_all(&request).unwrap();
    let mut begin = [0; 64];
    assert!(stream.read(&mut begin).unwrap() > 0);
    server.signal("TERM");
    // Until the end, others are told so; then the connection is refused.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Ok(mut other) = TcpStream::connect(("127.0.0.1", server.port)) else { break };
        let _ = other.write_all(&server.request("GET", "/health", "", b""));
        match Reply::read(other) {
            // The signal is on its way.
            reply if reply.status == 200 => assert!(Instant::now() < deadline, "{}", server.log()),
            reply if reply.status == 0 => break,
            reply => {
                reply.assert_error(503, "ServiceUnavailableError", "the server is ending");
                break;
            }
        }
    }
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("data: [DONE]"), "{}", server.log());
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert!(server.log().contains("finishing the requests in progress"));
}

#[test]
fn requests_beyond_the_grace_are_given_up_with_an_error() {
    let mut server = Server::start(&["--grace", "1ms"]);
    let mut stream = server.connect();
    let request = server.request("POST", "/v1/chat/completions", "", long_answer().to_string().as_bytes());
    stream.write_all(&request).unwrap();
    let mut bytes = vec![0; 64];
    let n = stream.read(&mut bytes).unwrap();
    bytes.truncate(n);
    server.signal("INT");
    stream.read_to_end(&mut bytes).unwrap();
    let last = Reply::parse(&bytes).events().pop().unwrap();
    assert_eq!(last["error"]["code"], 503, "{last}");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start(&["--grace", "10m", "--read-timeout", "10m"]);
    let _stalled = server.post_without_body("/v1/chat/completions", 1000);
    server.signal("TERM");
    let deadline = Instant::now() + PATIENCE;
    while !server.log().contains("finishing the requests in progress") {
        assert!(Instant::now() < deadline, "{}", server.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(server.child.try_wait().unwrap().is_none(), "a request is in progress");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(1), "{}", server.log());
}

#[test]
fn a_body_that_stalls_beyond_the_grace_is_answered_with_an_error() {
    let mut server = Server::start(&["--grace", "1ms", "--read-timeout", "10m"]);
    let stalled = ["/v1/videos", "/v1/chat/completions"].map(|path| server.post_without_body(path, 1000));
    server.signal("TERM");
    for stream in stalled {
        Reply::read(stream).assert_error(503, "ServiceUnavailableError", "the server is ending");
    }
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[test]
fn a_killed_server_leaves_nothing_that_its_successor_keeps() {
    let scratch = Arc::new(tempfile::tempdir().unwrap());
    let mut killed = Server::with_scratch(&[], scratch.clone());
    let video = std::fs::read(crate::harness::repository(super::VIDEO)).unwrap();
    assert_eq!(killed.send("POST", "/v1/videos", "", &video).status, 201);
    let mut stream = killed.connect();
    let request = killed.request("POST", "/v1/chat/completions", "", long_answer().to_string().as_bytes());
    stream.write_all(&request).unwrap();
    assert!(stream.read(&mut [0; 64]).unwrap() > 0);
    killed.signal("KILL");
    killed.wait();
    // The client's connection ends at once.
    let _ = stream.read_to_end(&mut Vec::new());
    let n_files = || walk(scratch.path());
    assert!(n_files() > 0, "the upload is left");
    let next = Server::with_scratch(&[], scratch.clone());
    assert_eq!(next.answer("What color is the circle?"), "purple");
    let left = walk_for(scratch.path(), video.len() as u64);
    assert_eq!(left, 0, "files of the killed server are removed");
}

fn walk(dir: &std::path::Path) -> usize {
    walk_for_any(dir, &|_| true)
}

fn walk_for(dir: &std::path::Path, n_bytes: u64) -> usize {
    walk_for_any(dir, &|found| found == n_bytes)
}

/// Counts the files of some sizes.
fn walk_for_any(dir: &std::path::Path, is_counted: &dyn Fn(u64) -> bool) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let count = |entry: std::fs::DirEntry| {
        let facts = entry.metadata().unwrap();
        if facts.is_dir() { walk_for_any(&entry.path(), is_counted) } else { usize::from(is_counted(facts.len())) }
    };
    entries.map(count).sum()
}
