//! Addresses of a host: one look-up of the name, a check of every address, and a connection to exactly these.
//!
//! A second look-up could give other addresses than those that were checked (DNS rebinding), so none is made:
//! `PinnedAddresses` answers the HTTP library in place of a resolver. Called by `exchange`.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::host::UrlHost;
use super::shown::printable;
use super::url::FetchUrl;
use crate::error::{Error, Kind, Result};

/// Maximum number of addresses that are tried.
const MAX_ADDRESSES: usize = 16;

/// Rule of the addresses that may be contacted.
pub(super) type AddressRule = fn(IpAddr) -> bool;

/// Look-up of host names.
pub trait Resolve: Send + Sync {
    /// Returns the addresses of a host with the port of the connection.
    ///
    /// # Errors
    /// The operating system's error; the error of a host without an address.
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// Look-up of host names by the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs()?.collect())
    }
}

/// Looks up the host of a URL once, and checks all its addresses.
///
/// # Errors
/// [`Kind::Fetch`] for an unknown host, [`Kind::Refused`] if any address breaks the rule. The address is not named:
/// names of an internal network are not to be explored by error messages.
pub(super) fn resolve(url: &FetchUrl, resolver: &dyn Resolve, admits: AddressRule) -> Result<PinnedAddresses> {
    let (host, port) = (&url.host, url.port());
    let addresses = match host {
        UrlHost::Address(address) => vec![SocketAddr::new(*address, port)],
        UrlHost::Name(name) => resolver.resolve(name, port).map_err(|cause| {
            let rule = format!("unknown host `{host}`: {}", printable(&cause.to_string()));
            Error::new(Kind::Fetch, rule).with_cause(cause)
        })?,
    };
    if addresses.is_empty() {
        return Err(Error::new(Kind::Fetch, format!("unknown host `{host}`: no address")));
    }
    if !addresses.iter().all(|address| admits(address.ip())) {
        let rule = format!("host `{host}` has an address that is not global, which is not fetched");
        return Err(Error::new(Kind::Refused, rule));
    }
    let pinned = addresses.into_iter().take(MAX_ADDRESSES).map(|address| SocketAddr::new(address.ip(), port));
    Ok(PinnedAddresses(pinned.collect()))
}

/// Checked addresses of the only host of a request.
#[derive(Debug)]
pub(super) struct PinnedAddresses(Vec<SocketAddr>);

impl Resolver for PinnedAddresses {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        self.0.iter().for_each(|&address| addresses.push(address));
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::super::address::is_global;
    use super::*;

    struct Fixed(&'static [&'static str]);

    impl Resolve for Fixed {
        fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
            Ok(self.0.iter().map(|address| SocketAddr::new(address.parse().expect("an address"), port)).collect())
        }
    }

    fn resolved(url: &str, addresses: &'static [&'static str]) -> Result<Vec<SocketAddr>> {
        resolve(&FetchUrl::parse(url).expect(url), &Fixed(addresses), is_global).map(|pinned| pinned.0)
    }

    #[test]
    fn every_address_must_be_global() {
        let found = resolved("https://a.org/", &["8.8.8.8", "2606:4700::1111"]).expect("global");
        assert_eq!(found, ["8.8.8.8:443".parse().expect("v4"), "[2606:4700::1111]:443".parse().expect("v6")]);
        for addresses in [
            &["127.0.0.1"][..],
            &["8.8.8.8", "10.0.0.1"],
            &["8.8.8.8", "::ffff:127.0.0.1"],
            &["fe80::1"],
            &["169.254.169.254"],
        ] {
            let error = resolved("http://a.org/", addresses).expect_err("not global");
            assert_eq!(error.kind(), Kind::Refused);
            let message = "host `a.org` has an address that is not global, which is not fetched";
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn an_address_in_place_of_a_name_is_checked_without_a_look_up() {
        assert_eq!(resolved("http://8.8.8.8:81/", &[]).expect("global"), ["8.8.8.8:81".parse().expect("v4")]);
        assert_eq!(resolved("http://127.0.0.1/", &["8.8.8.8"]).expect_err("loopback").kind(), Kind::Refused);
    }

    #[test]
    fn a_host_without_an_address_is_unknown() {
        let error = resolved("http://a.org/", &[]).expect_err("no address");
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Fetch, "unknown host `a.org`: no address"));
    }
}
