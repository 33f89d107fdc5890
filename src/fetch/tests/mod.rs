//! Downloads from a server on loopback.

mod addresses;
mod contents;
mod failures;
mod limits;
mod redirects;
mod secure;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::test_server::TestServer;
use super::{FetchPolicy, Fetched, Fetcher, Resolve};
use crate::error::{Kind, Result};

const NEVER: &dyn Fn() -> bool = &|| false;

fn get(fetcher: &Fetcher, url: &str) -> Result<(Vec<u8>, Fetched)> {
    let mut content = Vec::new();
    fetcher.fetch(url, &mut content, NEVER).map(|fetched| (content, fetched))
}

fn failure(fetcher: &Fetcher, url: &str) -> (Kind, String) {
    let error = get(fetcher, url).expect_err(url);
    (error.kind(), error.to_string())
}

fn with_policy(server: &TestServer, change: impl FnOnce(&mut FetchPolicy)) -> Fetcher {
    let mut fetcher = server.fetcher();
    change(&mut fetcher.policy);
    fetcher
}

/// Resolver whose answers change from call to call; the last one stays.
pub(super) struct Changing {
    answers: Vec<Ipv4Addr>,
    pub(super) n_calls: AtomicUsize,
}

impl Changing {
    pub(super) fn new(answers: &[[u8; 4]]) -> Arc<Self> {
        Arc::new(Self { answers: answers.iter().map(|&bytes| bytes.into()).collect(), n_calls: AtomicUsize::new(0) })
    }
}

impl Resolve for Changing {
    fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let call = self.n_calls.fetch_add(1, Ordering::SeqCst);
        Ok(vec![(self.answers[call.min(self.answers.len() - 1)], port).into()])
    }
}
