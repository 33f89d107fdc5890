//! Redirects: each target is checked like a first URL.

use super::{failure, get, with_policy};
use crate::error::Kind;
use crate::fetch::test_server::{TestServer, redirect, response};
use crate::fetch::url::FetchUrl;
use crate::fetch::{FetchPolicy, Fetcher};

#[test]
fn a_redirect_may_lead_to_another_allowed_host_and_takes_no_cookie_along() {
    let server = TestServer::with(&[("/b?token=secret", response("200 OK", "", b"found"))]);
    let target = format!("//other.test:{}", server.address.port());
    let front = TestServer::with(&[
        ("/?token=secret", redirect(&format!("{target}/b?token=secret"))),
        ("/gone", redirect(&format!("{target}/gone?token=secret"))),
    ]);
    let fetcher = with_policy(&front, |policy| {
        let hosts = format!("video.test:{},other.test:{}", front.address.port(), server.address.port());
        policy.hosts = hosts.parse().expect("a list");
    });
    let (content, fetched) = get(&fetcher, &front.url("/?token=secret")).expect("another host");
    assert_eq!((content.as_slice(), fetched.url), (&b"found"[..], format!("http:{target}/b")));
    assert!(server.requests().iter().all(|request| !request.to_ascii_lowercase().contains("cookie")));
    let (kind, message) = failure(&fetcher, &front.url("/gone"));
    let expected =
        format!("{}: redirect to http:{target}/gone: the server answered with status 404", front.url("/gone"));
    assert_eq!((kind, message), (Kind::Fetch, expected));
}

#[test]
fn a_redirect_to_itself_ends() {
    let server = TestServer::with(&[("/loop", redirect("/loop"))]);
    let (kind, message) = failure(&server.fetcher(), &server.url("/loop"));
    assert_eq!((kind, message), (Kind::Fetch, format!("{}: more than 3 redirects", server.url("/loop"))));
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn three_redirects_are_followed_and_not_four() {
    let server = TestServer::with(&[
        ("/0", redirect("/1")),
        ("/1", redirect("/2")),
        ("/2", redirect("/3")),
        ("/3", redirect("/4")),
        ("/4", response("200 OK", "", b"found")),
    ]);
    let (content, fetched) = get(&server.fetcher(), &server.url("/1")).expect("three redirects");
    assert_eq!((content.as_slice(), fetched.url), (&b"found"[..], server.url("/4")));
    assert_eq!(failure(&server.fetcher(), &server.url("/0")).0, Kind::Fetch);
    let none = with_policy(&server, |policy| policy.max_redirects = 0);
    assert!(failure(&none, &server.url("/3")).1.ends_with("more than 0 redirects"));
}

#[test]
fn a_redirect_is_refused_like_a_first_url() {
    let inside = TestServer::with(&[("/", response("200 OK", "", b"secret"))]);
    let port = inside.address.port();
    let targets = [
        (format!("http://127.0.0.1:{port}/"), Kind::Refused),
        (format!("http://localhost:{port}/"), Kind::Refused),
        (format!("http://[::ffff:7f00:1]:{port}/"), Kind::Refused),
        (format!("http://evil.example:{port}/"), Kind::Refused),
        (format!("http://video.test:{port}/"), Kind::Refused),
        ("file:///etc/passwd".to_owned(), Kind::Refused),
        ("ftp://video.test/".to_owned(), Kind::Refused),
        (format!("http://a:b@video.test:{port}/"), Kind::Refused),
        ("http://127.1/".to_owned(), Kind::Fetch),
        ("http://a\u{1b}[31m/".to_owned(), Kind::Fetch),
        ("data:,x".to_owned(), Kind::Fetch),
        ("http://".to_owned(), Kind::Fetch),
    ];
    for (target, expected) in targets {
        let server = TestServer::with(&[("/", redirect(&target))]);
        let (kind, message) = failure(&server.fetcher(), &server.url("/"));
        assert_eq!(kind, expected, "{target}: {message}");
        assert!(message.is_ascii() && !message.chars().any(char::is_control), "{message:?}");
    }
    assert_eq!(inside.requests(), [""; 0]);
    let server = TestServer::with(&[("/", response("302 Found", "", b""))]);
    assert!(failure(&server.fetcher(), &server.url("/")).1.ends_with("a redirect without a valid target"));
}

#[test]
fn a_redirect_from_https_to_http_is_refused() {
    let hosts = "a.org".parse().expect("a list");
    let fetcher = Fetcher::new(FetchPolicy { hosts, ..FetchPolicy::default() });
    let from = FetchUrl::parse("https://a.org/x").expect("a URL");
    let error = fetcher.redirected(&from, "http://a.org/y?token=secret").expect_err("downgrade");
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(error.to_string(), "redirect to http://a.org/y: a redirect from https to http, which is not followed");
    assert!(fetcher.redirected(&from, "/y").is_ok());
}
