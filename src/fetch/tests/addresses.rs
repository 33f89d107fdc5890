//! Addresses of names: one look-up a hop, and none of this machine.

use std::sync::atomic::Ordering;

use super::{Changing, failure, get};
use crate::error::Kind;
use crate::fetch::test_server::{TestServer, redirect, response};
use crate::fetch::{AllowedHosts, FetchPolicy, Fetcher};

#[test]
fn a_name_is_looked_up_once_so_that_it_cannot_be_rebound() {
    let server = TestServer::with(&[("/", response("200 OK", "", b"first"))]);
    let resolver = Changing::new(&[[127, 0, 0, 1], [127, 0, 0, 2]]);
    let fetcher = server.fetcher().with_resolver(resolver.clone());
    assert_eq!(get(&fetcher, &server.url("/")).expect("the first address").0, b"first");
    assert_eq!(resolver.n_calls.load(Ordering::SeqCst), 1);
}

#[test]
fn a_name_that_changes_between_hops_is_checked_again() {
    let server = TestServer::with(&[("/", redirect("/next")), ("/next", response("200 OK", "", b"x"))]);
    let resolver = Changing::new(&[[127, 0, 0, 1], [127, 0, 0, 2]]);
    let fetcher = server.fetcher().with_resolver(resolver.clone());
    let (kind, message) = failure(&fetcher, &server.url("/"));
    assert_eq!(kind, Kind::Refused);
    assert!(
        message.ends_with("host `video.test` has an address that is not global, which is not fetched"),
        "{message}"
    );
    assert_eq!((resolver.n_calls.load(Ordering::SeqCst), server.requests().len()), (2, 1));
}

#[test]
fn addresses_of_this_machine_are_not_contacted() {
    let server = TestServer::with(&[("/", response("200 OK", "", b"secret"))]);
    let hosts: AllowedHosts = format!("*:{0},video.test:{0}", server.address.port()).parse().expect("a list");
    for address in [[127, 0, 0, 1], [127, 1, 2, 3], [0, 0, 0, 0]] {
        let policy = FetchPolicy { hosts: hosts.clone(), ..FetchPolicy::default() };
        let fetcher = Fetcher::new(policy).with_resolver(Changing::new(&[address]));
        assert_eq!(failure(&fetcher, &server.url("/")).0, Kind::Refused, "{address:?}");
    }
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "LocalHost."] {
        let url = format!("http://{host}:{}/", server.address.port());
        let policy = FetchPolicy { hosts: hosts.clone(), ..FetchPolicy::default() };
        assert_eq!(failure(&Fetcher::new(policy), &url).0, Kind::Refused, "{host}");
    }
    assert_eq!(server.requests(), [""; 0]);
}
