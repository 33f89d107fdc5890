//! Contents, the facts of a download, and temporary files.

use super::{NEVER, get};
use crate::error::Kind;
use crate::fetch::test_server::{TestServer, response};
use crate::fetch::{DownloadedFile, Fetched, remove_leftovers};

#[test]
fn a_content_arrives_with_its_facts() {
    let body: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    let server = TestServer::with(&[("/a.mp4?key=secret", response("200 OK", "Content-Type: video/mp4\r\n", &body))]);
    let (content, fetched) = get(&server.fetcher(), &server.url("/a.mp4?key=secret#part")).expect("a content");
    assert!(content == body);
    let expected = Fetched { n_bytes: 300_000, content_type: Some("video/mp4".to_owned()), url: server.url("/a.mp4") };
    assert_eq!(fetched, expected);
    let request = server.requests()[0].to_ascii_lowercase();
    for line in [
        "get /a.mp4?key=secret http/1.1\r\n".to_owned(),
        format!("host: video.test:{}\r\n", server.address.port()),
        "accept-encoding: identity\r\n".to_owned(),
        format!("user-agent: vidense/{}\r\n", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(request.contains(&line), "{line}: {request}");
    }
    assert!(!request.contains("cookie") && !request.contains("authorization"), "{request}");
}

#[test]
fn a_content_may_be_chunked_or_end_with_its_connection() {
    let server = TestServer::with(&[
        (
            "/chunked",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n".to_vec(),
        ),
        ("/closed", b"HTTP/1.0 200 OK\r\n\r\nabcde".to_vec()),
        ("/empty", response("200 OK", "Content-Encoding: identity\r\n", b"")),
    ]);
    for (path, content) in [("/chunked", "abcde"), ("/closed", "abcde"), ("/empty", "")] {
        assert_eq!(get(&server.fetcher(), &server.url(path)).expect(path).0, content.as_bytes());
    }
}

#[test]
fn a_downloaded_file_is_removed_with_its_value() {
    let server = TestServer::with(&[
        ("/a.MP4?x", response("200 OK", "", b"abc")),
        ("/b/c", response("200 OK", "", b"abc")),
        ("/d", response("200 OK", "", b"abd")),
    ]);
    let dir = tempfile::tempdir().expect("a directory");
    let files = || std::fs::read_dir(dir.path()).expect("a directory").count();
    let download = |path: &str| server.fetcher().download(&server.url(path), dir.path(), NEVER);
    let first = download("/a.MP4?x").expect("a file");
    let (second, third) = (download("/b/c").expect("a file"), download("/d").expect("a file"));
    assert_eq!(std::fs::read(first.path()).expect("a file"), b"abc");
    assert_eq!(first.path().extension().expect("that of the URL"), "MP4");
    assert_eq!((first.fetched.n_bytes, second.path().extension()), (3, None));
    // Equal contents have equal times, and other contents other times.
    let modified =
        |file: &DownloadedFile| std::fs::metadata(file.path()).and_then(|meta| meta.modified()).expect("a time");
    assert_eq!(modified(&first), modified(&second));
    assert_ne!(modified(&first), modified(&third));
    assert_eq!(download("/e").expect_err("not found").kind(), Kind::Fetch);
    assert_eq!(files(), 3);
    drop((first, second, third));
    assert_eq!(files(), 0);
}

#[test]
fn leftovers_are_removed_and_other_files_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["vidense-download-x1.mp4", "vidense-download-y", "results.jsonl"] {
        std::fs::write(dir.path().join(name), "").expect("ours");
    }
    remove_leftovers(dir.path()).expect("ours");
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).expect("ours").map(|entry| entry.expect("ours").file_name()).collect();
    assert_eq!(left, ["results.jsonl"]);
    remove_leftovers(&dir.path().join("none")).expect("nothing to remove");
}

#[test]
fn a_url_is_checked_without_a_request() {
    let server = TestServer::with(&[]);
    assert!(server.fetcher().check(&server.url("/a")).is_ok());
    let error = server.fetcher().check("http://user:secret@video.test/a?b").expect_err("credentials");
    assert_eq!(error.to_string(), "http://video.test/a: a URL with a user name or a password, which is not fetched");
    assert_eq!(server.requests(), [""; 0]);
}
