//! `vidense bench`: how fast this machine is, in one JSON object.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use vidense::bench::{
    AskTask, Compares, LanguageSize, LanguageTask, RunTask, TowerName, bench_ask, bench_language, bench_run,
    bench_tower, bench_video,
};
use vidense::nn::QuantFormat;
use vidense::video::{Access, FrameRequest, ReadLimits, Sample, Window};

use crate::cli::limits::ReadArgs;
use crate::cli::output;

/// Time networks of real geometry with random weights, the reading of a video, or a whole `ask` or `run`, on this machine's CPU, and print one
/// JSON object
#[derive(Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
    /// Runs of which the median is taken
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
}

#[derive(Subcommand)]
enum What {
    /// A vision tower, all of its layers
    Tower {
        /// clip-l-336, siglip-so400m
        #[arg(long, default_value = "clip-l-336")]
        tower: TowerName,
        /// Frames that go through it together
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
        batch: u16,
    },
    /// Frames of a video, from opening it to their RGB
    Decode {
        video: PathBuf,
        /// Number of frames, uniformly sampled
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
        frames: u16,
        /// How they are got at: auto, straight, seek
        #[arg(long, default_value = "auto", value_name = "HOW")]
        access: Access,
        /// Threads of the decoder, up to 64; 0 is one for each core
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=64))]
        threads: u16,
        /// The video stream, by its index as `inspect` prints it [default: the best one]
        #[arg(long, value_name = "N")]
        stream: Option<usize>,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// The whole command `ask`, from the start of its process to its end
    Ask {
        video: PathBuf,
        #[arg(default_value = "What happens?")]
        question: String,
        /// Further arguments of `ask`, such as `--model DIR`
        #[arg(last = true, value_name = "ARGUMENTS")]
        arguments: Vec<String>,
    },
    /// The whole command `run`, from the start of its process to its end
    Run {
        /// A pipeline file (YAML)
        pipeline: PathBuf,
        #[arg(required = true)]
        videos: Vec<PathBuf>,
        /// A question; may be given several times
        #[arg(long = "question", short, value_name = "TEXT", default_value = "What happens?")]
        questions: Vec<String>,
        /// Further arguments of `run`, such as `--set KEY=VALUE`
        #[arg(last = true, value_name = "ARGUMENTS")]
        arguments: Vec<String>,
    },
    /// A language model in the engine: prompts, then token after token of all of them
    Llm {
        /// 1.1b, 7b
        #[arg(long, default_value = "1.1b")]
        size: LanguageSize,
        /// Hold its linear layers in fewer bits than f32: q8_0, q4_k
        #[arg(long, value_name = "FORMAT")]
        quant: Option<QuantFormat>,
        /// Compare its logits with those of the same weights in f32, which needs the memory of both in turn
        #[arg(long, requires = "quant")]
        kl: bool,
        /// Positions of the prompt
        #[arg(long, default_value_t = 576, value_parser = clap::value_parser!(u16).range(1..=3072))]
        tokens: u16,
        /// Positions at the beginning of every prompt that are the same: one video, many questions
        #[arg(long, default_value_t = 0, value_name = "POSITIONS")]
        shared: u16,
        /// Tokens that are decoded after it
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
        new: u16,
        /// Prompts that are answered together
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
        sequences: u16,
    },
}

impl Bench {
    /// Runs the command.
    ///
    /// # Errors
    /// When candle fails, or the video cannot be read, or `ask` fails.
    pub fn run(self) -> anyhow::Result<()> {
        let runs = usize::from(self.runs);
        match self.what {
            What::Tower { tower, batch } => output::json(&bench_tower(tower, usize::from(batch), runs)?),
            What::Decode { video, frames, access, threads, stream, read } => {
                let limits = ReadLimits { access, threads: usize::from(threads), ..read.read_limits() };
                let sample = Sample::uniform(usize::from(frames));
                let request = FrameRequest { stream, ..FrameRequest::new(sample, Window::default()) };
                output::json(&bench_video(&video, &request, &limits, runs)?)
            }
            What::Ask { video, question, arguments } => {
                let program = std::env::current_exe()?;
                let task = AskTask { program: &program, video: &video, question: &question, arguments: &arguments };
                output::json(&bench_ask(&task, runs)?)
            }
            What::Run { pipeline, videos, questions, arguments } => {
                let program = std::env::current_exe()?;
                let task = RunTask {
                    program: &program,
                    pipeline: &pipeline,
                    videos: &videos,
                    questions: &questions,
                    arguments: &arguments,
                };
                output::json(&bench_run(&task, runs)?)
            }
            What::Llm { size, quant, kl, tokens, shared, new, sequences } => {
                output::json(&bench_language(&LanguageTask {
                    size,
                    quantization: quant,
                    n_tokens: usize::from(tokens),
                    n_shared: usize::from(shared),
                    n_new: usize::from(new),
                    n_sequences: usize::from(sequences),
                    runs,
                    compares: if kl { Compares::Logits } else { Compares::Nothing },
                })?)
            }
        }
    }
}
