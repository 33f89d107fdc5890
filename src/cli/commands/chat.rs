//! `vidense chat VIDEO`: a conversation about one video, which is encoded once.

use std::io::{BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use rustyline::error::ReadlineError;
use vidense::pipeline::{EncodedVideo, VideoChat};

use crate::cli::args::PlanArgs;
use crate::cli::download::{DownloadArgs, VideoInput};
use crate::cli::output;
use crate::cli::session::{AnswerContext, Session, warn_of_full_context};

/// Ask several questions about one video; it is encoded once, and read once by the language model
///
/// Questions are read line by line, from the terminal or from a pipe. `/quit`, or the end of the input, ends it.
#[derive(Args)]
pub struct Chat {
    /// A media file, a directory of image frames, or with --allow-hosts a URL
    video: PathBuf,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    downloads: DownloadArgs,
    /// Print one JSON object a question in place of the text
    #[arg(long)]
    json: bool,
}

impl Chat {
    /// Runs the command.
    ///
    /// # Errors
    /// Any error that stops the command. A question that does not fit is printed as an error, and the conversation goes
    /// on.
    pub fn run(self) -> anyhow::Result<()> {
        let plan = self.plan.plan()?;
        let input = VideoInput::open(&self.video, &self.downloads)?;
        let session = Session::open_about(plan, &self.plan.limits(), &input, "")?;
        let video = session.encode(&input)?;
        // Its frames are read: nothing of a download stays behind a conversation.
        drop(input);
        let mut conversation = session.chat(&video)?;
        if !session.model.template.has_turns() {
            output::warning("this checkpoint takes single questions only: each is answered without the earlier ones");
        }
        let mut questions = QuestionReader::open()?;
        while let Some(line) = questions.next()? {
            match line.trim() {
                "" => {}
                "/quit" | "/exit" => break,
                question => self.answer(&session, &video, &mut conversation, question)?,
            }
        }
        Ok(())
    }

    fn answer(
        &self,
        session: &Session,
        video: &EncodedVideo,
        conversation: &mut VideoChat<'_>,
        question: &str,
    ) -> anyhow::Result<()> {
        let mut printed = Ok(());
        let answer = conversation.ask(question, &mut |text| {
            if !self.json {
                printed = output::part(text);
            }
            if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        printed?;
        match answer {
            Err(error) => output::error(&error.into()),
            Ok(answer) if self.json => {
                let path = self.video.to_string_lossy();
                let context = AnswerContext { path: &path, frames: &video.frames, timings: video.timings };
                output::json(&session.object(context, question, &answer))?;
                warn_of_full_context(&answer);
            }
            Ok(answer) => {
                output::line("")?;
                warn_of_full_context(&answer);
            }
        }
        Ok(())
    }
}

/// Reader of questions, from a terminal with editing and history, or from a pipe.
enum QuestionReader {
    Terminal(Box<rustyline::DefaultEditor>),
    Pipe(std::io::Lines<std::io::StdinLock<'static>>),
}

impl QuestionReader {
    fn open() -> anyhow::Result<Self> {
        if std::io::stdin().is_terminal() {
            Ok(Self::Terminal(Box::new(rustyline::DefaultEditor::new()?)))
        } else {
            Ok(Self::Pipe(std::io::stdin().lock().lines()))
        }
    }

    fn next(&mut self) -> anyhow::Result<Option<String>> {
        match self {
            Self::Pipe(lines) => Ok(lines.next().transpose()?),
            Self::Terminal(editor) => match editor.readline("> ") {
                Ok(line) => {
                    editor.add_history_entry(&line)?;
                    Ok(Some(line))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }
}
