//! Tools of the resolver outside of tests: the guarded download, and the probe in a process of its own.

use crate::fetch::Fetcher;
use crate::pipeline::{ExpectedMedium, Limits};
use crate::video::worker::{Isolation, Worker};
use crate::video::{Bounds, FrameRequest, LinkedFilePolicy, ReadLimits, ReadingForecast, scan};

use super::resolve::MediaTools;
use super::{MediaPolicy, MediaResolver, Scratch};

/// Settings of a [`MediaResolver`].
#[derive(Debug)]
pub struct MediaSettings {
    /// Policy of the files and hosts that requests may name.
    pub policy: MediaPolicy,
    /// Directory of temporary files.
    pub scratch: Scratch,
    /// Frames that are taken where a request says nothing: those of the plan.
    pub plan: FrameRequest,
    /// Isolation of probes. `None` probes in this process, which a crash of a demuxer ends.
    pub isolation: Option<Isolation>,
    /// Limits of a medium. Files that lead to others are refused in any case.
    pub limits: Limits,
}

impl MediaResolver {
    /// Makes a resolver.
    pub fn new(settings: MediaSettings) -> Self {
        let MediaSettings { policy, scratch, plan, isolation, limits } = settings;
        let fetcher = Fetcher::new(policy.fetch.clone());
        let limits = ReadLimits { links: LinkedFilePolicy::Refuse, ..limits.of_scan() };
        let tools = MediaTools {
            download: Box::new(move |url, writer, halt| fetcher.fetch(url, writer, halt).map(drop)),
            probe: Box::new(move |path, request, halt| {
                let bounds = Bounds { limits, halt: halt.clone() };
                let forecast = match &isolation {
                    Some(isolation) => Worker::new(isolation).probe(path, request, &bounds),
                    None => scan(path, request, bounds).and_then(|scanned| scanned.forecast()),
                };
                forecast.map(expected)
            }),
        };
        Self::with_tools(policy, scratch, plan, tools)
    }
}

fn expected(forecast: ReadingForecast) -> ExpectedMedium {
    let ReadingForecast { n_sampled, size, .. } = forecast;
    // A rule that needs decoded frames, or an unusual file, may forecast none.
    ExpectedMedium { n_frames: n_sampled.max(1), image: size.filter(|_| n_sampled <= 1) }
}
