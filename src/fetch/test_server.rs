//! HTTP server of tests on loopback, which sends what a test scripts, byte by byte if need be.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::{FetchPolicy, Fetcher, Resolve};

/// Answer to one request, from the path and query of its target.
type Respond = dyn Fn(&str, &mut TcpStream) -> io::Result<()> + Send + Sync;

/// A server that listens until the process ends.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl TestServer {
    /// Starts a server on 127.0.0.1.
    pub(crate) fn start(respond: impl Fn(&str, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (requests, respond): (Arc<Mutex<Vec<String>>>, Arc<Respond>) = (Arc::default(), Arc::new(respond));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, respond) = (seen.clone(), respond.clone());
                // A client that goes away is a part of some tests.
                std::thread::spawn(move || drop(answer(stream, &seen, &*respond)));
            }
        });
        Self { address, requests }
    }

    /// Starts a server with whole responses by path; any other path is not found.
    pub(crate) fn with(responses: &[(&str, Vec<u8>)]) -> Self {
        let responses: BTreeMap<String, Vec<u8>> =
            responses.iter().map(|(path, response)| ((*path).to_owned(), response.clone())).collect();
        Self::start(move |path, stream| match responses.get(path) {
            Some(response) => stream.write_all(response),
            None => stream.write_all(&response("404 Not Found", "", b"secret words of the server")),
        })
    }

    /// Heads of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic in a test's server").clone()
    }

    /// URL of a path under the name `video.test`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://video.test:{}{path}", self.address.port())
    }

    /// Downloader to which every name is this machine, and which may contact it under names below `test`.
    pub(crate) fn fetcher(&self) -> Fetcher {
        let hosts = format!("*.test:{}", self.address.port()).parse().expect("a list");
        Fetcher::new(FetchPolicy { hosts, ..FetchPolicy::default() })
            .with_resolver(Arc::new(ThisMachine))
            .admitting(is_loopback)
    }
}

/// Rule that admits 127.0.0.1 alone.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::LOCALHOST)
}

/// Resolver that knows 127.0.0.1 under every name.
struct ThisMachine;

impl Resolve for ThisMachine {
    fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![(Ipv4Addr::LOCALHOST, port).into()])
    }
}

/// Returns a response with a length.
pub(crate) fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Returns a redirect.
pub(crate) fn redirect(location: &str) -> Vec<u8> {
    response("302 Found", &format!("Location: {location}\r\nSet-Cookie: taste=sweet\r\n"), b"secret words")
}

fn answer(mut stream: TcpStream, seen: &Mutex<Vec<String>>, respond: &Respond) -> io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            break;
        }
    }
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    // A connection that is closed with unread bytes is reset, and the response with it.
    reader.read_exact(&mut vec![0; length.unwrap_or(0)])?;
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    seen.lock().expect("no panic in a test's server").push(head);
    respond(&path, &mut stream)
}
