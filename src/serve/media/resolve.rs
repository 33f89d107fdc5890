//! Resolution of the media of a request: an address becomes a file, a forecast and a key. Blocking; called on threads
//! that may wait, before a request is queued, so that a bad medium is an answer with a status.

use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::error::{Error, Kind, Result};
use crate::exec::lock;
use crate::pipeline::ExpectedMedium;
use crate::video::{FrameRequest, Halt, Patience, Sample, Window};

use super::address::MediaAddress;
use super::content::MediaContent;
use super::gate::ProbeGate;
use super::key::{ListFrames, MediaKey};
use super::medium::{Media, UUID, named};
use super::memory::{KnownContent, MediaMemory, ScopedUuid, not_kept};
use super::read::{ContentReader, DownloadFn, FrameList, ListedFormat, ReadContent};
use super::scratch::Scratch;
use super::timing::timeline;
use super::{FrameTiming, MediaPart, MediaPolicy, MediaSource};

/// Forecasts the frames of a file or a directory, without decoding.
pub(super) type ProbeFn = Box<dyn Fn(&Path, &FrameRequest, &Halt) -> Result<ExpectedMedium> + Send + Sync + 'static>;

/// Downloads and forecasts of a resolver.
pub(super) struct MediaTools {
    pub(super) download: DownloadFn,
    pub(super) probe: ProbeFn,
}

/// Request for which media are resolved.
pub struct ResolveContext<'c> {
    /// Scope of uploads and uuids: of one API key.
    pub scope: &'c str,
    /// Returns whether the client has gone away.
    pub halt: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Returns the sizes of a medium whose visual tokens are cached, so that it need not be read.
    pub known: &'c dyn Fn(&MediaKey) -> Option<ExpectedMedium>,
}

impl ResolveContext<'_> {
    /// Checks that the client still waits.
    pub(super) fn check(&self) -> Result<()> {
        if (self.halt)() { Err(Error::new(Kind::Stopped, "the client has gone away")) } else { Ok(()) }
    }

    fn video_halt(&self) -> Halt {
        let halt = self.halt.clone();
        Halt::new(move || if halt() { Patience::Exhausted } else { Patience::Full })
    }
}

/// Resolver of the media of all requests.
pub struct MediaResolver {
    policy: MediaPolicy,
    scratch: Scratch,
    /// Frames that are taken where the request says nothing.
    plan: FrameRequest,
    tools: MediaTools,
    memory: Mutex<MediaMemory>,
    probes: ProbeGate,
}

/// Content of a part, with the frames that are taken of it.
struct ResolvedContent {
    read: ReadContent,
    name: String,
    request: FrameRequest,
    /// Number of frames that were sent as a list.
    n_sent: Option<usize>,
    list: Option<ListFrames>,
}

impl MediaResolver {
    pub(super) fn with_tools(policy: MediaPolicy, scratch: Scratch, plan: FrameRequest, tools: MediaTools) -> Self {
        Self { policy, scratch, plan, tools, memory: Mutex::default(), probes: ProbeGate::default() }
    }

    /// Directory of temporary files, with the uploads.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Resolves all media of a request, in order.
    ///
    /// # Errors
    /// As [`Self::resolve`], about the part; and too many media.
    pub fn resolve_all(&self, parts: Vec<MediaPart>, context: &ResolveContext<'_>) -> Result<Vec<Arc<Media>>> {
        if parts.len() > self.policy.max_media {
            let rule = format!("{} videos and images, over the limit of {}", parts.len(), self.policy.max_media);
            return Err(Error::invalid(rule));
        }
        let resolve = |part: MediaPart| {
            let param = part.param.clone();
            self.resolve(part, context).map_err(|error| error.about(param))
        };
        parts.into_iter().map(resolve).collect()
    }

    /// Resolves a medium: reads its content into the scratch, or opens it, and forecasts its frames. A medium that was
    /// seen before, by content, frames and times, is not probed again.
    ///
    /// # Errors
    /// - [`Kind::Invalid`]: an address, base64, an option or a timing that breaks its rule; a `uuid` of other content.
    /// - [`Kind::Refused`]: a file or a host that the policy does not allow, a playlist.
    /// - [`Kind::NotFound`]: a local file, an upload, the content of a `uuid`.
    /// - [`Kind::TooLarge`], [`Kind::Busy`]: over the limit of a medium; over that of the scratch.
    /// - [`Kind::Fetch`], [`Kind::TimeLimit`], [`Kind::Stopped`], and the kinds of a file that is not a video.
    pub fn resolve(&self, part: MediaPart, context: &ResolveContext<'_>) -> Result<Arc<Media>> {
        context.check()?;
        let uuid = part.uuid.as_deref().map(|uuid| ScopedUuid::new(context.scope, uuid)).transpose()?;
        let resolved = self.content(&part, uuid.as_ref(), context)?;
        let known = KnownContent { hash: resolved.read.hash, n_listed: resolved.n_sent };
        if let Some(uuid) = &uuid {
            lock(&self.memory).check(uuid, known)?;
        }
        let key = MediaKey::of(resolved.read.hash, &resolved.request, resolved.list.as_ref())?;
        let expected = self.expected(&key, &resolved, context)?;
        let mut memory = lock(&self.memory);
        memory.remember_expected(key, expected);
        if let Some(uuid) = uuid {
            memory.remember_content(uuid, known)?;
        }
        drop(memory);
        Ok(Arc::new(Media {
            key,
            path: resolved.read.content.path().to_owned(),
            request: resolved.request,
            expected,
            name: resolved.name,
            param: part.param,
            n_listed: resolved.list.as_ref().map(|list| list.positions.len()),
            timing: resolved.list.and_then(|list| list.timing),
            content: resolved.read.content,
        }))
    }

    /// Reads the content of a part.
    fn content(
        &self,
        part: &MediaPart,
        uuid: Option<&ScopedUuid>,
        context: &ResolveContext<'_>,
    ) -> Result<ResolvedContent> {
        let (policy, scratch, download) = (&self.policy, &self.scratch, &self.tools.download);
        let reader = ContentReader { policy, scratch, download, context };
        match &part.source {
            MediaSource::Known => self.known(part, uuid),
            MediaSource::Base64(data) => self.file(part, &MediaAddress::Base64(data), &reader),
            MediaSource::Url(url) => match MediaAddress::parse(url)? {
                MediaAddress::FrameList(list) => {
                    let addresses = list.frames().take(self.policy.max_frames + 1).map(MediaAddress::Base64).collect();
                    self.list(part, &FrameList { addresses, format: ListedFormat::Jpeg }, &reader)
                }
                address => self.file(part, &address, &reader),
            },
            MediaSource::Frames(urls) => self.list(part, &self.frame_list(urls)?, &reader),
        }
    }

    /// Parses the addresses of frames. A single address may be a list itself.
    fn frame_list<'t>(&self, urls: &'t [String]) -> Result<FrameList<'t>> {
        if let [url] = urls
            && let MediaAddress::FrameList(list) = MediaAddress::parse(url)?
        {
            let addresses = list.frames().take(self.policy.max_frames + 1).map(MediaAddress::Base64).collect();
            return Ok(FrameList { addresses, format: ListedFormat::Jpeg });
        }
        let addresses = urls.iter().map(|url| MediaAddress::parse(url)).collect::<Result<_>>()?;
        Ok(FrameList { addresses, format: ListedFormat::Image })
    }

    fn file(
        &self,
        part: &MediaPart,
        address: &MediaAddress<'_>,
        reader: &ContentReader<'_>,
    ) -> Result<ResolvedContent> {
        let request = self.file_request(part)?;
        let read = reader.file(address)?;
        Ok(ResolvedContent { read, name: address.name(), request, n_sent: None, list: None })
    }

    /// Returns the frames that are taken of a file.
    fn file_request(&self, part: &MediaPart) -> Result<FrameRequest> {
        if let Some(timing) = &part.timing
            && *timing != FrameTiming::default()
        {
            let error = Error::invalid("a video file has times of its own");
            return Err(error.with_hint("for frames: data:video/jpeg;base64,f1,f2,... or image_url").about("timing"));
        }
        part.frames.of_file(&self.plan, self.policy.max_frames)
    }

    fn list(&self, part: &MediaPart, frames: &FrameList<'_>, reader: &ContentReader<'_>) -> Result<ResolvedContent> {
        let n = frames.addresses.len();
        let list = self.list_frames(part, n)?;
        let read = reader.frames(frames, &list)?;
        Ok(ResolvedContent {
            read,
            name: if n == 1 { "image".to_owned() } else { "frames".to_owned() },
            request: whole_list(),
            n_sent: Some(n),
            list: Some(list),
        })
    }

    /// Chooses the frames that are taken of a list of `n`.
    fn list_frames(&self, part: &MediaPart, n: usize) -> Result<ListFrames> {
        let limit = self.policy.max_frames;
        if n > limit {
            return Err(Error::new(Kind::TooLarge, format!("{n} frames or more, over the limit of {limit}")));
        }
        let mut options = part.frames;
        let mut timing = part.timing.clone().unwrap_or_default();
        options.do_sample_frames = options.do_sample_frames.or(timing.do_sample_frames.take());
        let timing = Some(timing).filter(|timing| *timing != FrameTiming::default());
        let stamps = timing.as_ref().map(|timing| timing.stamps(n)).transpose()?;
        let all = || (0..n).collect();
        let mut positions: Vec<usize> = match options.of_list(&self.plan.sample, limit)? {
            None => all(),
            Some(Sample::Uniform(rule)) if rule.frames >= n => all(),
            Some(rule) => rule.select(&timeline(stamps.as_deref(), n))?,
        };
        positions.dedup();
        let timing = timing.map(|timing| timing.of_positions(&positions));
        Ok(ListFrames { positions, timing })
    }

    /// Returns the content of a `uuid`, which is not sent again.
    fn known(&self, part: &MediaPart, uuid: Option<&ScopedUuid>) -> Result<ResolvedContent> {
        let uuid = uuid.ok_or_else(|| Error::invalid("neither content nor a uuid"))?;
        let KnownContent { hash, n_listed } = lock(&self.memory).content(uuid)?;
        let list = n_listed.map(|n| self.list_frames(part, n)).transpose()?;
        let request = if list.is_some() { whole_list() } else { self.file_request(part)? };
        let read = ReadContent { content: MediaContent::Absent, hash };
        let name = format!("{UUID}{}", part.uuid.as_deref().unwrap_or_default());
        Ok(ResolvedContent { read, name, request, n_sent: n_listed, list })
    }

    /// Returns the forecast of a content, from memory or by a probe.
    fn expected(
        &self,
        key: &MediaKey,
        resolved: &ResolvedContent,
        context: &ResolveContext<'_>,
    ) -> Result<ExpectedMedium> {
        if let Some(expected) = (context.known)(key) {
            return Ok(expected);
        }
        let ResolvedContent { read, name, request, .. } = resolved;
        if matches!(read.content, MediaContent::Absent) {
            return Err(not_kept(name.strip_prefix(UUID).unwrap_or_default()));
        }
        let remembered = || lock(&self.memory).expected(key);
        if let Some(expected) = remembered() {
            return Ok(expected);
        }
        let _place = self.probes.enter(|| context.check())?;
        // Another request may have probed the same medium meanwhile.
        if let Some(expected) = remembered() {
            return Ok(expected);
        }
        read.content.store()?;
        let path = read.content.path();
        let probed = (self.tools.probe)(path, request, &context.video_halt());
        let expected = probed.map_err(|error| named(error, path, name))?;
        let (n, limit) = (expected.n_frames, self.policy.max_frames);
        if n > limit {
            let error = Error::new(Kind::Frames, format!("{n} frames, over the limit of {limit}"));
            return Err(error.with_hint("media_io_kwargs.video.num_frames").about(name.clone()));
        }
        Ok(expected)
    }
}

/// Returns the request for all frames of a directory.
fn whole_list() -> FrameRequest {
    FrameRequest::new(Sample::All, Window::default())
}
