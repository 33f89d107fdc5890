//! `vidense inspect VIDEO|MODEL|PIPELINE`: streams of a video, parts and shapes of a model, consequences of a pipeline.
//!
//! Reads headers and configurations, and decodes a video to count its frames; no weights are loaded.

mod model;
mod video;

use std::fmt::Write;
use std::path::Path;

use clap::Args;
use vidense::fetch::is_web_url;
use vidense::files::{FileKind, kind_of};
use vidense::spec::{Plan, fingerprint, hash_files, read_plan};
use vidense::video::{Flow, ReadEvent, ReadLimits, VideoInfo, count_frames, probe};
use vidense::vlm::{Blueprint, Overrides, Unused};
use vidense::weights::{DownloadProgress, Hub};

use self::model::{
    describe_budget, describe_devices, describe_memory, describe_parts, describe_shapes, with_each_strategy,
};
use self::video::{describe_container, print_audio};
use crate::cli::args::UnusedArgs;
use crate::cli::download::{DownloadArgs, VideoInput};
use crate::cli::limits::ReadArgs;
use crate::cli::session::warn_of_reading;
use crate::cli::{output, progress};

/// Show the streams and the exact frame count of a video, the layers, shapes and token budget of a model, or every
/// choice of a pipeline file with its consequences
#[derive(Args)]
pub struct Inspect {
    /// Media file, directory of image frames, model directory, hub id, pipeline file (.yaml), or with --allow-hosts the
    /// URL of a media file
    #[arg(value_name = "VIDEO|MODEL|PIPELINE")]
    target: String,
    /// For a pipeline: value that overrides that of the file; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// For a model: vision tower other than the checkpoint's own
    #[arg(long, value_name = "DIR|ID")]
    vision_tower: Option<String>,
    #[command(flatten)]
    unused: UnusedArgs,
    /// For a model: frames of the token budget
    #[arg(long, value_name = "N", default_value_t = 8)]
    frames: usize,
    /// For a video: video stream whose frames are counted, by its index as it is printed here [default: the best video
    /// stream]
    #[arg(long, value_name = "N")]
    stream: Option<usize>,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    downloads: DownloadArgs,
}

impl Inspect {
    /// Runs the command.
    ///
    /// # Errors
    /// When the target does not exist or cannot be read.
    pub fn run(self) -> anyhow::Result<()> {
        let path = Path::new(&self.target);
        if is_web_url(&self.target) && self.downloads.allows_hosts() {
            return self.video(path);
        }
        if path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") {
            return self.pipeline(path);
        }
        let is_model = |dir: &Path| ["config.json", "adapter_config.json"].iter().any(|name| dir.join(name).is_file());
        let is_video = match kind_of(path) {
            _ if path.is_dir() => !is_model(path),
            Some(FileKind::Weights) => false,
            // A name with a video's extension is a video, even if the file does not exist.
            Some(FileKind::Video | FileKind::Image) => true,
            _ => path.exists(),
        };
        if is_video { self.video(path) } else { self.model() }
    }

    /// Prints the resolved plan as YAML, then its consequences as comments: the output is a pipeline file.
    fn pipeline(&self, path: &Path) -> anyhow::Result<()> {
        let (mut plan, document) = read_plan(path, &self.sets)?;
        plan.unused = self.unused.rule(plan.unused);
        let blueprint = Blueprint::read(&plan.model, &plan.overrides(), &Hub::from_env(DownloadProgress::Shown))?;
        plan = plan.resolved(&blueprint);
        let mut finding = plan.check_model(&blueprint);
        finding.problems.extend(plan.check_budget(&blueprint));
        if !finding.problems.is_empty() {
            return Err(document.error(&finding.problems).into());
        }
        blueprint.warnings.iter().for_each(|warning| output::warning(warning));
        finding.warnings.iter().for_each(|warning| output::warning(&document.locate(warning).to_string()));
        let mut facts = String::new();
        describe_parts(&mut facts, &blueprint)?;
        let n_frames = plan.most_frames().unwrap_or(self.frames);
        describe_shapes(&mut facts, &blueprint, plan.temporal(), n_frames)?;
        describe_budget(&mut facts, &blueprint, std::slice::from_ref(&plan), n_frames)?;
        describe_memory(&mut facts, &blueprint)?;
        describe_devices(&mut facts, &plan)?;
        writeln!(facts, "\nplan        {}", fingerprint(&plan, &hash_files(&blueprint.files())?)?)?;
        let facts: String = facts.lines().map(|line| format!("# {line}").trim_end().to_owned() + "\n").collect();
        Ok(output::part(&format!("{}\n{facts}", plan.to_yaml()?))?)
    }

    fn model(&self) -> anyhow::Result<()> {
        let overrides = Overrides::tower(self.vision_tower.as_deref()).with_unused(self.unused.rule(Unused::Refuse));
        let blueprint = Blueprint::read(&self.target, &overrides, &Hub::from_env(DownloadProgress::Shown))?;
        blueprint.warnings.iter().for_each(|warning| output::warning(warning));
        let mut text = String::new();
        let plan = Plan::default().resolved(&blueprint);
        describe_parts(&mut text, &blueprint)?;
        describe_shapes(&mut text, &blueprint, plan.temporal(), self.frames)?;
        describe_budget(&mut text, &blueprint, &with_each_strategy(&plan), self.frames)?;
        describe_memory(&mut text, &blueprint)?;
        Ok(output::part(&text)?)
    }

    /// Prints the header of a video, and the frames that decode.
    fn video(&self, named: &Path) -> anyhow::Result<()> {
        let video = VideoInput::open(named, &self.downloads)?;
        video.in_errors(self.describe_video(&video))
    }

    fn describe_video(&self, video: &VideoInput) -> anyhow::Result<()> {
        let (path, limits) = (video.path(), ReadLimits { links: video.links(), ..self.read.read_limits() });
        let info = VideoInfo { path: video.shown(), ..probe(path, self.stream, &limits)? };
        if info.best.is_none() {
            return print_audio(&info);
        }
        let bar = progress::decoding();
        let report = count_frames(path, self.stream, &limits, &mut |event| {
            match event {
                ReadEvent::Expected { n_frames, .. } => bar.set_length(n_frames as u64),
                ReadEvent::Progress { n_decoded } => bar.set_position(n_decoded as u64),
                ReadEvent::Frame(_) | ReadEvent::Restart | ReadEvent::Waiting => {}
            }
            Flow::Continue
        });
        bar.finish_and_clear();
        let report = report?;
        let mut text = String::new();
        describe_container(&mut text, &info)?;
        writeln!(text, "frames      {} decode, counted one by one", report.n_frames)?;
        if let Some((first, last)) = report.times {
            writeln!(text, "times       {first} (first frame) to {last} (last frame)")?;
        }
        output::part(&text)?;
        warn_of_reading(&video.shown(), &report);
        Ok(())
    }
}
