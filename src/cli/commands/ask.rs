//! `vidense ask VIDEO QUESTION`: one question about a video, with a streamed answer.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;

use crate::cli::args::PlanArgs;
use crate::cli::download::{DownloadArgs, VideoInput};
use crate::cli::output;
use crate::cli::session::{AnswerContext, Session, warn_of_full_context};

/// Ask a question about a video
#[derive(Args)]
pub struct Ask {
    /// A media file, a directory of image frames, or with --allow-hosts a URL
    video: PathBuf,
    /// The question
    question: String,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    downloads: DownloadArgs,
    /// Print one JSON object in place of the text
    #[arg(long)]
    json: bool,
}

impl Ask {
    /// Runs the command.
    ///
    /// # Errors
    /// Any error that stops the command.
    pub fn run(self) -> anyhow::Result<()> {
        if self.question.trim().is_empty() {
            anyhow::bail!("the question is empty");
        }
        let plan = self.plan.plan()?;
        let input = VideoInput::open(&self.video, &self.downloads)?;
        let session = Session::open_about(plan, &self.plan.limits(), &input, &self.question)?;
        let video = session.encode(&input)?;
        let mut chat = session.chat(&video)?;

        let mut printed = Ok(());
        let answer = chat.ask(&self.question, &mut |text| {
            if !self.json {
                printed = output::part(text);
            }
            if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        printed?;
        let answer = answer?;
        if self.json {
            let path = input.named().to_string_lossy();
            let context = AnswerContext { path: &path, frames: &video.frames, timings: video.timings };
            output::json(&session.object(context, &self.question, &answer))?;
        } else {
            output::line("")?;
        }
        warn_of_full_context(&answer);
        Ok(())
    }
}
