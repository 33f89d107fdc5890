//! The first two stages: videos to frames, frames to prepared images.

use std::time::{Duration, Instant};

use ::image::RgbImage;

use super::item::{Carried, Ending, Item, ItemError, Part, VideoRef};
use super::stages::{DECODE, PREPROCESS, Progress};
use super::timing::timed;
use super::views::ViewMaker;
use super::{FrameStamp, PipelineError, Stages};
use crate::exec::{Closed, Inlet, Outlet};
use crate::temporal::Views;
use crate::units::Tokens;
use crate::video::{Event, Flow, Frame, expected_frames, read_frames};
use crate::vlm::{ModelError, TokenBudget};

/// Decodes one video after the other.
pub(super) fn decode(stages: &Stages<'_>, inlet: &Inlet<VideoRef>, outlet: &Outlet<Item<RgbImage>>) {
    while let Some(video) = inlet.recv() {
        let mut reading = Reading { stages, outlet, video, views: None, waiting: Duration::ZERO };
        if reading.run().is_err() {
            return;
        }
    }
}

/// The reading of one video.
struct Reading<'r> {
    stages: &'r Stages<'r>,
    outlet: &'r Outlet<Item<RgbImage>>,
    video: VideoRef,
    /// Made when the first frame comes, and anew after a restart.
    views: Option<ViewMaker>,
    waiting: Duration,
}

impl Reading<'_> {
    /// Sends all parts of the video, the last of them its end; an error says that nobody wants them.
    fn run(&mut self) -> Result<(), Closed> {
        let start = Instant::now();
        let path = self.video.path.clone();
        let mut sent = Ok(());
        let report = self.check_budget().and_then(|()| {
            let report = read_frames(&path, &self.stages.request, &mut |event| {
                sent = self.take(event);
                if sent.is_ok() { Flow::Continue } else { Flow::Stop }
            });
            report.map_err(PipelineError::from)
        });
        sent?;
        let report = match report {
            Ok(report) => self.finish()?.map(|()| report),
            Err(error) => Err(error),
        };
        let report = match report {
            Ok(report) => Some(report),
            Err(source) => {
                self.send(Part::Failed(ItemError::new(DECODE, source)))?;
                None
            }
        };
        let decode = start.elapsed().saturating_sub(self.waiting);
        self.send(Part::End(Ending { report, decode }))
    }

    /// Whether the frames that the packets promise fit the context beside the text.
    fn check_budget(&self) -> Result<(), PipelineError> {
        let Some(text) = self.stages.text else { return Ok(()) };
        let n_frames = expected_frames(&self.video.path, &self.stages.request)?.max(1);
        let budget = TokenBudget {
            temporal: self.stages.temporal,
            n_frames,
            frame: self.stages.vlm.frame_tokens(),
            text,
            context: Tokens(self.stages.vlm.context()),
        };
        budget.room()?;
        Ok(())
    }

    fn take(&mut self, event: Event) -> Result<(), Closed> {
        let tell = |progress| (self.stages.on_progress)(&self.video, progress);
        if self.outlet.is_aborted() {
            return Err(Closed);
        }
        match event {
            Event::Expected { n_frames } => tell(Progress::Expected { n_frames }),
            Event::Progress { n_decoded } => tell(Progress::Decoded { n_frames: n_decoded }),
            Event::Restart => {
                self.views = None;
                self.send(Part::Restart)?;
            }
            Event::Frame(Frame { index, time, image }) => {
                let stamp = FrameStamp { index, time_seconds: time };
                let part = match self.views().push(image) {
                    Some(image) => Part::Image(image, Carried { frame: Some(stamp), ..Carried::default() }),
                    None => Part::Frame(stamp),
                };
                self.send(part)?;
            }
        }
        Ok(())
    }

    /// The image that follows all frames, if there is one.
    fn finish(&mut self) -> Result<Result<(), PipelineError>, Closed> {
        if self.stages.temporal.views() == Views::Frames {
            return Ok(Ok(()));
        }
        let views = self.views.take().unwrap_or_else(|| self.new_views());
        match views.finish() {
            Ok(Some(image)) => self.send(Part::Image(image, Carried::default())).map(Ok),
            Ok(None) => Ok(Ok(())),
            Err(rule) => Ok(Err(ModelError::Frames { path: self.video.path.to_path_buf(), rule }.into())),
        }
    }

    fn views(&mut self) -> &mut ViewMaker {
        let new = self.new_views();
        self.views.get_or_insert(new)
    }

    fn new_views(&self) -> ViewMaker {
        ViewMaker::new(self.stages.temporal.views(), self.stages.vlm.tower().config().image_size)
    }

    fn send(&mut self, part: Part<RgbImage>) -> Result<(), Closed> {
        let item = Item { video: self.video.clone(), part };
        timed(&mut self.waiting, || self.outlet.send(item))
    }
}

/// Prepares each image as the tower wants it.
pub(super) fn preprocess(stages: &Stages<'_>, inlet: &Inlet<Item<RgbImage>>, outlet: &Outlet<Item<Vec<f32>>>) {
    while let Some(item) = inlet.recv() {
        let prepared = item.map_image(PREPROCESS, |image, mut carried| {
            let pixels = timed(&mut carried.preprocess, || stages.vlm.prepare(image))?;
            Ok((pixels, carried))
        });
        if outlet.send(prepared).is_err() {
            return;
        }
    }
}
