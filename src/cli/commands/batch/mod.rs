//! `vidense batch PIPELINE ARCHIVE`: many questions about an archive of videos, resumable; `vidense batch status DIR`
//! shows its progress from another terminal.

mod devices;
mod process;
mod status;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Args, Subcommand};
use vidense::batch::{
    Archive, ArchiveOptions, ArchiveUrls, BatchOutcome, BatchQuestion, ManifestFormat, Shard, Snapshot, Summary,
    check_questions, read_questions, report,
};
use vidense::error::{About as _, Error};
use vidense::exec::Stop;
use vidense::files::output::create_directory;
use vidense::pipeline::features::identity;
use vidense::pipeline::{Downloads, Preview, VideoOptions};

use self::devices::{DeviceBatch, DeviceList, part_dir};
use self::status::Status;
use crate::cli::args::PipelineArgs;
use crate::cli::download::DownloadArgs;
use crate::cli::limits::{CacheArgs, LimitArgs, Supervision, isolation_of_downloads};
use crate::cli::output::{self, LogFormat};
use crate::cli::session::Session;
use crate::cli::stored_run::{OpenedResults, StoredRun};
use crate::cli::{SomeFailed, Stopped, batch_messages, interrupt, metrics, timings};

/// Directory of downloaded videos under way, inside that of the results.
const DOWNLOADS: &str = "downloads";

/// Ask every question of every video of an archive, for days if need be
///
/// Each answer is a line of DIR/answers.jsonl, written as soon as it is complete. The same command resumes after a stop
/// or a crash: answers are skipped, an incomplete line is repaired, no question is asked twice. A failure is a line as
/// well, with stage, cause and hint, and does not affect other videos. Ctrl-C (or SIGTERM) finishes the work in
/// progress; a second one ends at once.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BatchCommand {
    #[command(subcommand)]
    subcommand: Option<BatchSubcommand>,
    #[command(flatten)]
    paths: BatchPaths,
    #[command(flatten)]
    run: RunBatch,
}

/// Paths of a batch, all required without a subcommand.
#[derive(Args)]
struct BatchPaths {
    /// Pipeline file (YAML)
    #[arg(required = true)]
    pipeline: Option<PathBuf>,
    /// Archive: a folder with its subfolders; a quoted glob ('videos/**/*.mp4'); a manifest (.csv, .tsv, .json, .jsonl,
    /// .txt: a path a line), or - for a manifest on standard input; or one video. Files of a folder are videos by their
    /// names or by their content. With --allow-hosts, videos of a manifest may be URLs
    #[arg(required = true)]
    archive: Option<PathBuf>,
    /// Directory of the results, new or to be resumed
    #[arg(long, value_name = "DIR", required = true)]
    out: Option<PathBuf>,
}

#[derive(Subcommand)]
enum BatchSubcommand {
    Status(Status),
}

#[derive(Args)]
struct RunBatch {
    /// File of questions: YAML or JSON, a list of texts, or of maps with id and question; or .jsonl, .csv, .tsv with
    /// these columns
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Further question; may be given several times
    #[arg(long = "question", short, value_name = "TEXT")]
    question: Vec<String>,
    #[command(flatten)]
    overrides: PipelineArgs,
    /// Part I of the archive, of N parts that together are the archive: 0/3, 1/3, 2/3
    #[arg(long, value_name = "I/N", default_value = "0/1", hide_default_value = true)]
    shard: Shard,
    /// Share the archive among processes, one for each device, such as cuda:0,cuda:1; failures of a device are retried
    /// on another device
    #[arg(long, value_name = "DEVICE,...", conflicts_with_all = ["shard", "metrics"])]
    devices: Option<DeviceList>,
    /// Part of this process, of an archive that is shared among devices
    #[arg(long, value_name = "I/N", requires = "devices", hide = true)]
    part: Option<Shard>,
    /// Retry earlier failures
    #[arg(long)]
    retry_failed: bool,
    /// Exclude matching paths, relative to the folder; may be given several times
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Base directory of a manifest's relative paths [default: that of the manifest; for standard input, the current
    /// one]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Format of a manifest: csv, tsv, json, jsonl, lines [default: by its name or its first bytes]
    #[arg(long, value_name = "FORMAT")]
    manifest: Option<ManifestFormat>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    downloads: DownloadArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Serve metrics to Prometheus at this address: 127.0.0.1:9464
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,
    /// Format of standard error: text, or json with one object a line
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log: LogFormat,
    /// Print the time of each stage, and the bottleneck
    #[arg(long)]
    timings: bool,
}

impl BatchCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// Any error that stops the command, or the number of failed items.
    pub fn run(self) -> anyhow::Result<()> {
        let Self { subcommand, paths: BatchPaths { pipeline, archive, out }, run } = self;
        match (subcommand, pipeline, archive, out) {
            (Some(BatchSubcommand::Status(status)), ..) => status.run(),
            (None, Some(pipeline), Some(archive), Some(out)) => match (&run.devices, run.part) {
                (Some(devices), None) => {
                    run.share(&archive, &DeviceBatch { devices, out: &out, retries_failed: run.retry_failed })
                }
                // One part of an archive that is shared among devices.
                (_, Some(part)) => RunBatch { shard: part, ..run }.run(&pipeline, &archive, &part_dir(&out, part)),
                (None, None) => run.run(&pipeline, &archive, &out),
            },
            _ => {
                let error = Error::invalid("missing pipeline, archive or --out");
                Err(error.with_hint("vidense batch --help").into())
            }
        }
    }
}

impl RunBatch {
    /// Shares the archive among devices.
    fn share(&self, archive: &Path, batch: &DeviceBatch<'_>) -> anyhow::Result<()> {
        output::log_as(self.log);
        if archive == Path::new("-") {
            let error = Error::invalid("standard input cannot be read by several processes");
            return Err(error.with_hint("a manifest in a file").about("--devices").into());
        }
        batch.run()
    }

    fn run(self, pipeline: &Path, archive_named: &Path, out: &Path) -> anyhow::Result<()> {
        output::log_as(self.log);
        let questions = self.questions()?;
        let limits = self.limits.limits(Supervision::Unattended)?;
        let mut isolation = self.limits.isolation(Supervision::Unattended)?;
        if self.downloads.allows_hosts() {
            isolation = isolation.map(isolation_of_downloads);
        }
        let options = ArchiveOptions {
            exclude: self.exclude.clone(),
            root: self.root.clone(),
            format: self.manifest,
            excluded_dir: Some(self.part.map_or(out, |_| whole(out)).to_owned()),
            urls: if self.downloads.allows_hosts() { ArchiveUrls::Videos } else { ArchiveUrls::Paths },
        };
        let archive = Archive::open(archive_named, &options)?;
        if questions.is_empty() && !archive.may_have_questions() {
            let hint = "--questions FILE, -q TEXT, or a manifest with questions";
            return Err(Error::invalid("no questions").with_hint(hint).into());
        }
        let metrics = self.metrics.as_deref().map(metrics::Server::bind).transpose()?;
        // Checked before the model is loaded: the results must be writable.
        create_directory(out).about(out)?;
        let (plan, document) = self.overrides.read_plan(pipeline)?;
        let model = Session::open(plan, &document)?.model;
        let results = OpenedResults::open(out, &model, self.shard)?;
        let features = self.cache.open(identity(&model)?);
        let downloads = self.downloads(out)?;
        let stop = Stop::new();
        interrupt::stop_on(&stop)?;
        let options = VideoOptions {
            limits,
            downloads: downloads.as_ref(),
            isolation: isolation.as_ref(),
            features: features.as_ref(),
            preview: Preview::Frame,
            ..VideoOptions::default()
        };
        let latest = Arc::new(Mutex::new(Snapshot::default()));
        if let Some(server) = metrics {
            let latest = latest.clone();
            server.serve(move || latest.lock().unwrap_or_else(PoisonError::into_inner).clone())?;
        }
        let outcome = results.run(&StoredRun {
            archive: &archive,
            named: archive_named,
            questions: &questions,
            retry_failed: self.retry_failed,
            options,
            stop: &stop,
            on_tick: &|snapshot| *latest.lock().unwrap_or_else(PoisonError::into_inner) = snapshot.clone(),
        })?;
        self.conclude(out, &outcome)
    }

    /// Prints the summary, and writes the report.
    fn conclude(&self, out: &Path, outcome: &BatchOutcome) -> anyhow::Result<()> {
        let summary = Summary::of(outcome);
        batch_messages::print_summary(&summary);
        let page = report::write(out)?;
        output::note(&format!("see {}", page.display()));
        if self.timings {
            timings::print(&outcome.report, std::time::Duration::from_secs_f64(summary.session.seconds));
        }
        match (summary.results.failed, summary.complete) {
            (0, true) => Ok(()),
            (0, false) => Err(Stopped.into()),
            (n_failed, _) => {
                if !summary.complete {
                    output::warning(&Stopped.to_string());
                }
                Err(SomeFailed { n_failed: usize::try_from(n_failed).unwrap_or(usize::MAX) }.into())
            }
        }
    }

    /// Opens the downloads, where a host is allowed. The lock of the results is held: no other process uses the
    /// directory.
    fn downloads(&self, out: &Path) -> anyhow::Result<Option<Downloads>> {
        let allows = self.downloads.allows_hosts();
        Ok(allows.then(|| Downloads::open(self.downloads.fetcher(), out.join(DOWNLOADS))).transpose()?)
    }

    fn questions(&self) -> anyhow::Result<Vec<BatchQuestion>> {
        let mut questions = match &self.questions {
            Some(path) => read_questions(path)?,
            None => Vec::new(),
        };
        questions.extend(self.question.iter().map(BatchQuestion::new));
        if !questions.is_empty() {
            check_questions(&questions)?;
        }
        Ok(questions)
    }
}

/// Returns the directory of results that contains that of a part.
fn whole(part: &Path) -> &Path {
    part.parent().and_then(Path::parent).unwrap_or(part)
}
