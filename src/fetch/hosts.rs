//! Hosts that may be contacted: a list of names, of domains, and of addresses, as `--allow-hosts` takes it.
//!
//! Nothing is resolved here: the addresses of an allowed name are checked by `resolve`. Checked before the first
//! request of a download and before each redirect.

use std::net::IpAddr;
use std::str::FromStr;

use super::address::is_global;
use super::host::{UrlHost, split_port};
use super::resolve::AddressRule;
use super::shown::printable;
use super::url::FetchUrl;
use crate::error::{About as _, Error, Kind, Result};

/// Ports that need no mention in the list: those of `http` and `https`.
const DEFAULT_PORTS: [u16; 2] = [80, 443];
/// Names of this machine and of its networks; so are all names below them.
const LOCAL_NAMES: [&str; 3] = ["localhost", "local", "internal"];
/// Examples of a list, for hints.
const EXAMPLES: &str = "example.org,*.example.com,cdn.example.net:8443, or * for any host";

/// Hosts that downloads may contact.
///
/// Parsed from a list with commas: `example.org` is that name alone, `*.example.com` all names below it,
/// `cdn.example.net:8443` a name with another port than 80 and 443, and `*` any name. An address is allowed only as
/// itself. Names of the local machine and network are not allowed by any list, and neither are names with an address
/// that is not global.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AllowedHosts {
    /// No host.
    #[default]
    None,
    /// Hosts of a list.
    Listed(Vec<HostRule>),
}

/// Entry of a list of hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    hosts: HostPattern,
    /// The only port; without one, 80 and 443.
    port: Option<u16>,
}

/// Rule about entries of this machine and its networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LocalHosts {
    /// An error.
    Refused,
    /// Allowed as themselves.
    Listed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    /// Any name.
    AnyName,
    /// All names that end with a dot and this name.
    Below(String),
    /// A name or an address.
    One(UrlHost),
}

impl AllowedHosts {
    /// Parses a list in which this machine and addresses of its networks may stand, for the address of a service that
    /// the user names: `localhost:8000`, `127.0.0.1:8000`, `10.0.0.7:8000`. Each is allowed by its own entry, never by
    /// `*`.
    ///
    /// # Errors
    /// As the list of other hosts; names below `localhost`, `local` and `internal`.
    pub fn with_local(text: &str) -> Result<Self> {
        let rules = text.split(',').map(|entry| HostRule::parse(entry.trim(), LocalHosts::Listed));
        rules.collect::<Result<_>>().map(Self::Listed)
    }

    /// Returns the rule of the addresses of a host that is not global and has an entry of its own.
    pub(super) fn local_rule(&self, url: &FetchUrl) -> Option<AddressRule> {
        let is_own = |rule: &HostRule| rule.hosts == HostPattern::One(url.host.clone()) && rule.has_port(url.port());
        let Self::Listed(rules) = self else { return None };
        match &url.host {
            _ if !rules.iter().any(is_own) => None,
            UrlHost::Name(_) if is_local(&url.host) => Some(|address: IpAddr| address.is_loopback()),
            UrlHost::Address(address) if !is_global(*address) => Some(|_| true),
            _ => None,
        }
    }

    /// Checks host and port of a URL.
    ///
    /// # Errors
    /// [`Kind::Refused`] for a host or a port outside of the list.
    pub(super) fn check(&self, url: &FetchUrl) -> Result<()> {
        let refused = |rule: String| Error::new(Kind::Refused, rule);
        let (host, port) = (&url.host, url.port());
        let Self::Listed(rules) = self else {
            let hint = format!("download it first, or allow its host: --allow-hosts {host}");
            return Err(refused("a URL, which is not fetched".to_owned()).with_hint(hint));
        };
        let has_entry = rules.iter().any(|rule| rule.hosts == HostPattern::One(host.clone()));
        if is_local(host) && !has_entry {
            return Err(refused(format!("`{host}` is a local name, which is not fetched")));
        }
        let mut rules = rules.iter().filter(|rule| rule.hosts.contains(host)).peekable();
        if rules.peek().is_none() {
            return Err(refused(format!("host `{host}` is not allowed")).with_hint(format!("--allow-hosts {host}")));
        }
        if !rules.any(|rule| rule.has_port(port)) {
            let error = refused(format!("port {port} of `{host}` is not allowed"));
            return Err(error.with_hint(format!("--allow-hosts {host}:{port}")));
        }
        Ok(())
    }
}

impl FromStr for AllowedHosts {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let rules = text.split(',').map(|entry| HostRule::parse(entry.trim(), LocalHosts::Refused));
        rules.collect::<Result<_>>().map(Self::Listed)
    }
}

impl HostRule {
    fn parse(entry: &str, local: LocalHosts) -> Result<Self> {
        if entry.is_empty() {
            return Err(Error::invalid("an empty entry in a list of hosts").with_hint(EXAMPLES));
        }
        if entry.contains(['/', '@']) {
            let rule = format!("invalid host `{}`", printable(entry));
            return Err(Error::invalid(rule).with_hint("the host alone, without scheme, user and path"));
        }
        if let Ok(address) = entry.parse::<IpAddr>() {
            return Self::of(HostPattern::One(UrlHost::Address(address)), None, local);
        }
        let (host, port) = split_port(entry).about(format!("`{}`", printable(entry)))?;
        let hosts = match host.strip_prefix("*.") {
            _ if host == "*" => HostPattern::AnyName,
            None => HostPattern::One(UrlHost::parse(host).map_err(|error| error.with_hint(EXAMPLES))?),
            Some(domain) => match UrlHost::parse(domain).map_err(|error| error.with_hint(EXAMPLES))? {
                UrlHost::Name(domain) => HostPattern::Below(domain),
                UrlHost::Address(_) => {
                    let rule = format!("invalid host `{}`: an address has no names below it", printable(entry));
                    return Err(Error::invalid(rule).with_hint(EXAMPLES));
                }
            },
        };
        Self::of(hosts, port, local)
    }

    /// Makes an entry, unless its hosts are never allowed.
    fn of(hosts: HostPattern, port: Option<u16>, local: LocalHosts) -> Result<Self> {
        let never = |host: &dyn std::fmt::Display, nature| {
            Err(Error::invalid(format!("`{host}` is {nature}, from which nothing is downloaded")))
        };
        match &hosts {
            HostPattern::One(host) if local == LocalHosts::Listed && is_this_machine_or_address(host) => {
                Ok(Self { hosts, port })
            }
            HostPattern::Below(domain) if is_local(&UrlHost::Name(domain.clone())) => never(domain, "a local name"),
            HostPattern::One(host) if is_local(host) => never(host, "a local name"),
            HostPattern::One(UrlHost::Address(address)) if !is_global(*address) => {
                never(address, "not a global address")
            }
            _ => Ok(Self { hosts, port }),
        }
    }

    fn has_port(&self, port: u16) -> bool {
        self.port.map_or(DEFAULT_PORTS.contains(&port), |only| only == port)
    }
}

impl HostPattern {
    fn contains(&self, host: &UrlHost) -> bool {
        match (self, host) {
            (Self::AnyName, UrlHost::Name(_)) => true,
            (Self::Below(domain), UrlHost::Name(name)) => is_below(name, domain),
            (Self::One(one), host) => one == host,
            (Self::AnyName | Self::Below(_), UrlHost::Address(_)) => false,
        }
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
}

fn is_this_machine_or_address(host: &UrlHost) -> bool {
    match host {
        UrlHost::Name(name) => name == LOCAL_NAMES[0],
        UrlHost::Address(_) => true,
    }
}

/// Returns whether a host is a name of this machine or of its networks.
fn is_local(host: &UrlHost) -> bool {
    let UrlHost::Name(name) = host else { return false };
    LOCAL_NAMES.iter().any(|local| name == local || is_below(name, local))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hosts: &str, url: &str) -> Result<(), String> {
        let hosts: AllowedHosts = hosts.parse().expect(hosts);
        let checked = hosts.check(&FetchUrl::parse(url).expect(url));
        checked.map_err(|error| {
            assert_eq!(error.kind(), Kind::Refused);
            error.to_string()
        })
    }

    #[test]
    fn this_machine_is_allowed_by_its_own_entry_of_a_list_with_local_hosts() {
        let listed = |list: &str, url: &str| {
            let hosts = AllowedHosts::with_local(list).expect(list);
            let url = FetchUrl::parse(url).expect(url);
            (hosts.check(&url).is_ok(), hosts.local_rule(&url).map(|admits| admits([10, 0, 0, 7].into())))
        };
        assert_eq!(listed("localhost:8000", "http://localhost:8000/v1"), (true, Some(false)));
        assert_eq!(listed("10.0.0.7:8000", "http://10.0.0.7:8000/v1"), (true, Some(true)));
        assert_eq!(listed("localhost:8000", "http://localhost:8001/v1"), (false, None));
        assert_eq!(listed("*,127.0.0.1", "http://localhost/v1"), (false, None));
        assert_eq!(listed("*", "http://example.org/v1"), (true, None));
        for list in ["*.localhost", "judge.internal", "a.local:80", ""] {
            assert!(AllowedHosts::with_local(list).is_err(), "{list}");
        }
        for list in ["localhost:8000", "127.0.0.1", "10.0.0.7:8000"] {
            assert!(list.parse::<AllowedHosts>().is_err(), "{list}");
        }
    }

    #[test]
    fn a_name_allows_itself_on_the_default_ports() {
        for url in ["http://example.org/", "https://EXAMPLE.org./a", "http://example.org:443/"] {
            assert_eq!(check("Example.org.", url), Ok(()), "{url}");
        }
        for host in ["www.example.org", "example.org.evil.com", "xexample.org", "example.orgx", "org"] {
            let message = format!("host `{host}` is not allowed; hint: --allow-hosts {host}");
            assert_eq!(check("example.org", &format!("http://{host}/")), Err(message));
        }
        let message = "port 8080 of `example.org` is not allowed; hint: --allow-hosts example.org:8080";
        assert_eq!(check("example.org", "http://example.org:8080/"), Err(message.to_owned()));
    }

    #[test]
    fn a_domain_allows_all_names_below_it_but_not_itself() {
        for host in ["a.example.com", "a.b.example.com"] {
            assert_eq!(check("*.example.com", &format!("https://{host}/")), Ok(()), "{host}");
        }
        for host in ["example.com", "xexample.com", "a.example.com.evil.org"] {
            assert!(check("*.example.com", &format!("https://{host}/")).is_err(), "{host}");
        }
    }

    #[test]
    fn a_port_in_the_list_is_the_only_one_of_its_entry() {
        assert_eq!(check("cdn.example.net:8443", "https://cdn.example.net:8443/"), Ok(()));
        assert!(check("cdn.example.net:8443", "https://cdn.example.net/").is_err());
        assert_eq!(check("cdn.example.net:8443, cdn.example.net", "https://cdn.example.net/"), Ok(()));
        assert_eq!(check("*:8443", "https://a.org:8443/"), Ok(()));
        assert!(check("*:8443", "https://a.org/").is_err());
    }

    #[test]
    fn any_host_is_any_name_but_neither_a_local_one_nor_an_address() {
        assert_eq!(check("*", "https://a.org/"), Ok(()));
        for host in ["localhost", "LOCALHOST.", "a.localhost", "printer.local", "metadata.google.internal", "local"] {
            let error = check("*", &format!("http://{host}/")).expect_err(host);
            assert!(error.ends_with("is a local name, which is not fetched"), "{error}");
        }
        for host in ["127.0.0.1", "[::1]", "8.8.8.8", "[2606:4700::1111]"] {
            assert!(check("*", &format!("http://{host}/")).is_err(), "{host}");
        }
    }

    #[test]
    fn a_global_address_is_allowed_as_itself_alone() {
        for (hosts, url) in [
            ("8.8.8.8", "http://8.8.8.8/"),
            ("2606:4700::1111", "http://[2606:4700:0::1111]/"),
            ("[2606:4700::1111]:8080", "http://[2606:4700::1111]:8080/"),
        ] {
            assert_eq!(check(hosts, url), Ok(()), "{hosts}");
        }
        assert!(check("8.8.8.8", "http://8.8.4.4/").is_err());
    }

    #[test]
    fn nothing_is_allowed_by_default() {
        let error = AllowedHosts::default().check(&FetchUrl::parse("http://a.org/").expect("a URL"));
        let error = error.expect_err("no list").to_string();
        let hint = "hint: download it first, or allow its host: --allow-hosts a.org";
        assert_eq!(error, format!("a URL, which is not fetched; {hint}"));
        assert_eq!(AllowedHosts::default(), AllowedHosts::None);
    }

    #[test]
    fn lists_of_local_hosts_and_of_other_things_are_refused() {
        for (list, message) in [
            ("", "an empty entry in a list of hosts; hint: "),
            ("a.org,", "an empty entry in a list of hosts; hint: "),
            ("localhost", "`localhost` is a local name, from which nothing is downloaded"),
            ("*.local", "`local` is a local name, from which nothing is downloaded"),
            ("127.0.0.1", "`127.0.0.1` is not a global address, from which nothing is downloaded"),
            ("127.0.0.1:8080", "`127.0.0.1` is not a global address, from which nothing is downloaded"),
            ("::1", "`::1` is not a global address, from which nothing is downloaded"),
            ("[::ffff:8.8.8.8]:80", "`::ffff:8.8.8.8` is not a global address"),
            ("169.254.169.254", "`169.254.169.254` is not a global address"),
            ("https://a.org", "invalid host `https://a.org`; hint: the host alone"),
            ("a.org/x", "invalid host `a.org/x`; hint: the host alone"),
            ("a.*.org", "invalid host `a.*.org`; hint: "),
            ("*a.org", "invalid host `*a.org`; hint: "),
            ("*.8.8.8.8", "invalid host `*.8.8.8.8`: an address has no names below it"),
            ("a.org:x", "`a.org:x`: invalid port `x`"),
            ("127.1", "invalid host `127.1`"),
        ] {
            let error = list.parse::<AllowedHosts>().expect_err(list).to_string();
            assert!(error.starts_with(message), "{list}: {error}");
        }
    }
}
