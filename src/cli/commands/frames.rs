//! `vidense frames VIDEO`: the sampled frames of a video, as a contact sheet or as PNGs.

use std::path::{Path, PathBuf};

use clap::Args;
use image::{ImageFormat, RgbImage};
use serde::Serialize;
use vidense::error::{self, About as _, Error};
use vidense::files::{self, Durability};
use vidense::pipeline::FrameStamp;
use vidense::video::{Flow, Frame, ReadEvent, ReadLimits, read_frames};

use crate::cli::args::FrameArgs;
use crate::cli::download::{DownloadArgs, VideoInput};
use crate::cli::session::warn_of_reading;
use crate::cli::sheet::{sheet, thumbnail};
use crate::cli::{output, progress};

/// Limit of the thumbnails of a sheet, beyond which it is no overview.
const MAX_ON_SHEET: usize = 400;

/// Write the sampled frames: a contact sheet (PNG), each frame with its index and time, or one PNG a frame
#[derive(Args)]
pub struct Frames {
    /// A media file, a directory of image frames, or with --allow-hosts a URL
    video: PathBuf,
    #[command(flatten)]
    frames: FrameArgs,
    #[command(flatten)]
    downloads: DownloadArgs,
    /// Write each frame in full size as a PNG into this directory, in place of a sheet
    #[arg(long, value_name = "DIR", conflicts_with = "sheet")]
    out: Option<PathBuf>,
    /// File of the contact sheet [default: VIDEO's name with .frames.png, in the current directory]
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    /// Print one JSON object a file: path, frames
    #[arg(long)]
    json: bool,
}

/// Written file, and its frames.
#[derive(Serialize)]
struct WrittenImage {
    path: PathBuf,
    frames: Vec<FrameStamp>,
}

impl Frames {
    /// Runs the command.
    ///
    /// # Errors
    /// When the video cannot be read or a file cannot be written; partial files are removed.
    pub fn run(self) -> anyhow::Result<()> {
        let video = VideoInput::open(&self.video, &self.downloads)?;
        let sheet = || self.sheet.clone().unwrap_or_else(|| default_sheet(&video.shown()));
        let output = self.out.clone().unwrap_or_else(sheet);
        files::output::check_not_input(&output, [video.path()])?;
        video.in_errors(match &self.out {
            Some(dir) => self.write_each(&video, dir),
            None => self.write_sheet(&video, output),
        })
    }

    /// Writes one PNG for each frame, named by the number of the sample and the frame's index.
    fn write_each(&self, video: &VideoInput, dir: &Path) -> anyhow::Result<()> {
        files::output::create_directory(dir).about("cannot create the directory").about(dir)?;
        let mut written: Vec<WrittenImage> = Vec::new();
        self.read(video, &mut |frame| {
            let Some(frame) = frame else {
                // The estimated frame count was wrong, so these are other frames than requested.
                for file in written.drain(..) {
                    std::fs::remove_file(&file.path).about(&file.path)?;
                }
                return Ok(());
            };
            let path = dir.join(format!("{:04}-frame{}.png", written.len(), frame.index));
            files::output::check_not_input(&path, [video.path()])?;
            write_png(&frame.image, &path)?;
            written.push(WrittenImage { path, frames: vec![stamp(&frame)] });
            Ok(())
        })?;
        written.iter().try_for_each(|file| self.print(file))
    }

    /// Writes all frames to one PNG.
    fn write_sheet(&self, video: &VideoInput, path: PathBuf) -> anyhow::Result<()> {
        let mut cells = Vec::new();
        let mut stamps = Vec::new();
        self.read(video, &mut |frame| {
            let Some(frame) = frame else {
                cells.clear();
                stamps.clear();
                return Ok(());
            };
            if cells.len() == MAX_ON_SHEET {
                let error = Error::invalid(format!("a contact sheet holds at most {MAX_ON_SHEET} frames"));
                return Err(error.with_hint(format!("--frames {MAX_ON_SHEET}, or --out DIR")).into());
            }
            let time = frame.time.map_or(String::new(), |time| format!("  {time}"));
            cells.push((thumbnail(&frame.image), format!("#{}{time}", frame.index)));
            stamps.push(stamp(&frame));
            Ok(())
        })?;
        write_png(&sheet(&cells), &path)?;
        self.print(&WrittenImage { path, frames: stamps })
    }

    /// Passes the sampled frames to `take`; `None` revokes the frames so far.
    fn read(
        &self,
        video: &VideoInput,
        take: &mut dyn FnMut(Option<Frame>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let bar = progress::decoding();
        let mut failure = None;
        let read = self.frames.read.read_limits();
        let limits = ReadLimits { access: self.frames.access, links: video.links(), ..read };
        let report = read_frames(video.path(), &self.frames.resolve()?, &limits, &mut |event| {
            let taken = match event {
                ReadEvent::Frame(frame) => take(Some(frame)),
                ReadEvent::Restart => take(None),
                ReadEvent::Expected { n_frames, .. } => {
                    bar.set_length(n_frames as u64);
                    Ok(())
                }
                ReadEvent::Progress { n_decoded } => {
                    bar.set_position(n_decoded as u64);
                    Ok(())
                }
                ReadEvent::Waiting => Ok(()),
            };
            failure = taken.err();
            if failure.is_some() { Flow::Stop } else { Flow::Continue }
        });
        bar.finish_and_clear();
        if let Some(error) = failure {
            return Err(error);
        }
        warn_of_reading(&video.shown(), &report?);
        Ok(())
    }

    fn print(&self, file: &WrittenImage) -> anyhow::Result<()> {
        match self.json {
            true => output::json(file),
            // Nothing follows an image on standard output.
            false if files::is_standard_output(&file.path) => Ok(()),
            false => Ok(output::path(&file.path)?),
        }
    }
}

fn stamp(frame: &Frame) -> FrameStamp {
    FrameStamp { index: frame.index, time_seconds: frame.time }
}

fn default_sheet(video: &Path) -> PathBuf {
    // `.` and `..` have no name of their own.
    let name = video.file_stem().map_or("video".into(), |stem| stem.to_string_lossy());
    PathBuf::from(format!("{name}.frames.png"))
}

fn write_png(image: &RgbImage, path: &Path) -> anyhow::Result<()> {
    let write = || -> error::Result<()> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).map_err(|error| Error::invalid(error.to_string()))?;
        Ok(files::output::replace(path, bytes.get_ref(), Durability::Synced)?)
    };
    Ok(write().about("cannot be written").about(path)?)
}
