//! Opening of a server's model, service and media, before the first request can be answered.

use std::path::PathBuf;
use std::sync::Arc;

use vidense::error::Error;
use vidense::pipeline::features::identity;
use vidense::pipeline::{Limits, LoadedModel};
use vidense::serve::media::{MediaResolver, MediaSettings, Scratch};
use vidense::serve::service::{Service, ServiceConfig};
use vidense::spec::{Document, Plan};
use vidense::video::LinkedFilePolicy;
use vidense::video::worker::{Isolation, ProcessLifetime};

use super::args::MediaArgs;
use super::chat::now;
use super::state::ReadyServer;
use crate::cli::limits::CacheArgs;
use crate::cli::session::Session;

/// Directory below the system's one of temporary files.
const SCRATCH: &str = "vidense-serve";
/// Frames of a video at most, sampled or not: 18 hours at 60 a second.
const MAX_FRAMES: u64 = 4_000_000;

/// Settings of the model, the service and the media of a server.
pub struct ServerPlan {
    /// Plan of the model, with the text that it was read from.
    pub plan: Plan,
    /// Text of the plan.
    pub document: Document,
    /// Limits of each video.
    pub limits: Limits,
    /// Isolation of decoding.
    pub isolation: Isolation,
    /// Flags of the media that requests may read.
    pub media: MediaArgs,
    /// Cache of visual tokens on disk.
    pub cache: CacheArgs,
    /// Names of the model.
    pub names: Vec<String>,
    /// Requests that wait.
    pub max_waiting: usize,
    /// Bytes of a medium.
    pub max_bytes: u64,
}

impl ServerPlan {
    /// Opens the scratch, which is checked before a model is loaded.
    ///
    /// # Errors
    /// When its directory is not writable.
    pub fn open_scratch(&self) -> Result<Scratch, Error> {
        let root = self.media.scratch.clone().unwrap_or_else(|| std::env::temp_dir().join(SCRATCH));
        Scratch::open(&root, self.media.scratch_limit.as_u64())
    }

    /// Loads the model and starts the service.
    ///
    /// # Errors
    /// Those of opening the model, of a directory, and of the key-value memory.
    pub fn open(self, scratch: Scratch) -> anyhow::Result<ReadyServer> {
        let policy = self.media.policy(self.max_bytes)?;
        let isolation = Isolation {
            lifetime: ProcessLifetime::OneReading,
            memory: Some(self.media.decode_memory.as_u64()),
            ..self.isolation
        };
        let mut limits = self.limits;
        (limits.links, limits.max_frames) = (LinkedFilePolicy::Refuse, Some(MAX_FRAMES));
        let model = Arc::new(Session::open(self.plan, &self.document)?.model);
        let settings =
            MediaSettings { policy, scratch, plan: model.plan.frames(), isolation: Some(isolation.clone()), limits };
        let config = ServiceConfig {
            limits,
            isolation: Some(isolation.clone()),
            max_waiting: self.max_waiting,
            cache_bytes: self.media.memory_cache.as_u64(),
            features: self.cache.open(identity(&model)?),
        };
        let names = if self.names.is_empty() { vec![own_name(&model)] } else { self.names };
        let service = Arc::new(Service::start(model, config)?);
        let media = Arc::new(MediaResolver::new(settings));
        Ok(ReadyServer { service, media, names, created: now(), isolation, limits })
    }
}

/// Returns the name of a model: its hub id, or that of its directory.
fn own_name(model: &LoadedModel) -> String {
    let name = model.vlm.name();
    let path = PathBuf::from(name);
    let last = path.file_name().filter(|_| path.is_absolute() || name.starts_with('.'));
    last.map_or_else(|| name.to_owned(), |last| last.to_string_lossy().into_owned())
}
