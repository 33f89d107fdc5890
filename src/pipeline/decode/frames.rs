//! Frames of a video on their way to the tower: views of the strategy, views of a single image, a preview; and the
//! check of the token budget, which is known once the frames are counted.
//!
//! Nothing is read here: `decode` passes each event of its reader.

use ::image::RgbImage;

use super::VideoReading;
use crate::error::Error;
use crate::exec::Closed;
use crate::pipeline::FrameStamp;
use crate::pipeline::item::{Carried, ImageKind, PartContent};
use crate::pipeline::preview::PreviewMaker;
use crate::pipeline::stages::VideoProgress;
use crate::pipeline::views::ViewMaker;
use crate::temporal::{Temporal, Views};
use crate::units::Tokens;
use crate::video::{Frame, ReadEvent};
use crate::vlm::TokenBudget;

impl VideoReading<'_> {
    /// Decides whether AnyRes encodes the video, and refuses a video whose frames do not fit the context. The token
    /// count of AnyRes is known only with the image.
    fn expect(&mut self, n_sampled: usize, is_single_image: bool) {
        let plan = self.stages.single_image;
        self.takes_any_res = is_single_image && plan.is_some_and(|plan| plan.takes_any_res(n_sampled));
        if !self.takes_any_res {
            self.refusal = self.check_budget(self.stages.temporal, n_sampled.max(1)).err();
        }
    }

    /// Checks that `n_frames` frames fit the context beside the text.
    fn check_budget(&self, temporal: Temporal, n_frames: usize) -> Result<(), Error> {
        let Some(text) = self.video.text else { return Ok(()) };
        let budget = TokenBudget {
            temporal,
            n_frames,
            frame: self.stages.vlm.frame_tokens(),
            text,
            context: Tokens(self.stages.vlm.context()),
        };
        budget.room()?;
        Ok(())
    }

    /// Sends what an event of the reader has for the later stages.
    ///
    /// # Errors
    /// [`Closed`] when the receiver is gone.
    pub(super) fn take(&mut self, event: ReadEvent) -> Result<(), Closed> {
        let notify = |progress| (self.stages.on_progress)(&self.video, progress);
        if self.outlet.is_aborted() {
            return Err(Closed);
        }
        match event {
            ReadEvent::Waiting => {}
            ReadEvent::Expected { n_frames, n_sampled, is_single_image } => {
                notify(VideoProgress::Expected { n_frames });
                self.preview = PreviewMaker::new(self.stages.options.preview, n_sampled);
                self.expect(n_sampled, is_single_image);
            }
            ReadEvent::Progress { n_decoded } => notify(VideoProgress::Decoded { n_frames: n_decoded }),
            ReadEvent::Restart => {
                self.views = None;
                self.preview.restart();
                self.send(PartContent::Restart)?;
            }
            ReadEvent::Frame(Frame { index, time, image }) => {
                if let Some(jpeg) = self.preview.push(&image) {
                    self.send(PartContent::Thumbnail(jpeg))?;
                }
                let stamp = FrameStamp { index, time_seconds: time };
                if self.takes_any_res {
                    return self.send_views(stamp, &image);
                }
                let part = match self.views().push(image) {
                    Some(image) => PartContent::Image(image, Carried { frame: Some(stamp), ..Carried::default() }),
                    None => PartContent::Frame(stamp),
                };
                self.send(part)?;
            }
        }
        Ok(())
    }

    /// Sends the views of a single image, or records why it is refused.
    fn send_views(&mut self, stamp: FrameStamp, image: &RgbImage) -> Result<(), Closed> {
        let stages = self.stages;
        let checked = |reading: &Self| {
            let single_image = stages.vlm.single_image().usable()?;
            let temporal = single_image.temporal(image.dimensions());
            reading.check_budget(temporal, 1).map(|()| (single_image, temporal))
        };
        let (single_image, temporal) = match checked(self) {
            Ok(checked) => checked,
            Err(error) => {
                self.refusal = Some(error);
                return Ok(());
            }
        };
        self.send(PartContent::Views(temporal))?;
        for (i, view) in single_image.views(image).into_iter().enumerate() {
            let frame = (i == 0).then_some(stamp);
            self.send(PartContent::Image(view, Carried { frame, kind: ImageKind::View, ..Carried::default() }))?;
        }
        Ok(())
    }

    /// Sends what follows all frames: a preview of fewer frames than expected, and the strategy's image, if it has one.
    pub(super) fn finish(&mut self) -> Result<Result<(), Error>, Closed> {
        if let Some(jpeg) = self.preview.finish() {
            self.send(PartContent::Thumbnail(jpeg))?;
        }
        if self.takes_any_res || self.stages.temporal.views() == Views::Frames {
            return Ok(Ok(()));
        }
        let views = self.views.take().unwrap_or_else(|| self.new_views());
        match views.finish() {
            Ok(Some(image)) => self.send(PartContent::Image(image, Carried::default())).map(Ok),
            Ok(None) => Ok(Ok(())),
            Err(error) => Ok(Err(error.about(self.file.path()))),
        }
    }

    fn views(&mut self) -> &mut ViewMaker {
        let new = self.new_views();
        self.views.get_or_insert(new)
    }

    fn new_views(&self) -> ViewMaker {
        ViewMaker::new(self.stages.temporal.views(), self.stages.vlm.tower().config().image_size)
    }
}
