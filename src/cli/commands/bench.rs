//! `vidense bench`: how fast this machine is, in one JSON object.

use std::path::PathBuf;

use candle_core::DType;
use clap::{Args, Subcommand};
use vidense::bench::{
    AskBench, AskTask, BenchPlace, CheckpointTask, Compares, DeviceLimits, LanguageSize, LanguageTask, RunBench,
    RunTask, TowerName, bench_ask, bench_language, bench_run, bench_tower, bench_video, write_checkpoint,
};
use vidense::device::{DTypeSpec, DeviceSpec, OpenedDevice, load_kernels};
use vidense::nn::QuantFormat;
use vidense::video::{Access, FrameRequest, ReadLimits, Sample, Window};

use crate::cli::allocator::settle_for_loaded;
use crate::cli::limits::ReadArgs;
use crate::cli::output;

/// Time networks of real geometry with random weights, the reading of a video, or a whole `ask` or `run`, on this
/// machine's CPU or GPU, and print one JSON object
#[derive(Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
    /// Runs of which the median is taken
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// auto, cpu, cuda, cuda:1, metal; `decode` has no use for it [default: auto]
    #[arg(long, global = true)]
    device: Option<DeviceSpec>,
    /// auto, f32, f16, bf16; auto is f32 on the CPU and bf16 on a GPU [default: auto]
    #[arg(long, global = true)]
    dtype: Option<DTypeSpec>,
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
        /// Images that go through the tower together [default: as the pipeline says]
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
        batch: Option<u16>,
        /// Answers that are made together [default: as the pipeline says]
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
        sequences: Option<u16>,
        /// Further arguments of `run`, such as `--set KEY=VALUE`
        #[arg(last = true, value_name = "ARGUMENTS")]
        arguments: Vec<String>,
    },
    /// Write a checkpoint of a released model's geometry with random weights, for `ask` and `run` where no released
    /// ones are at hand
    Checkpoint {
        /// A new directory
        out: PathBuf,
        /// The language model: 1.1b, 7b
        #[arg(long, default_value = "7b")]
        size: LanguageSize,
        /// The vision tower: clip-l-336, siglip-so400m
        #[arg(long, default_value = "siglip-so400m")]
        tower: TowerName,
    },
    /// A language model in the engine: prompts, then token after token of all of them
    Llm {
        /// 1.1b, 7b
        #[arg(long, default_value = "1.1b")]
        size: LanguageSize,
        /// Hold its linear layers in fewer bits: q8_0, q4_k
        #[arg(long, value_name = "FORMAT")]
        quant: Option<QuantFormat>,
        /// Compare its logits with those of the same weights in full, which needs the memory of both in turn
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
        let Self { what, runs, device, dtype } = self;
        let (named, runs) = (Named { device, dtype }, usize::from(runs));
        match what {
            What::Tower { tower, batch } => {
                output::json(&bench_tower(tower, &named.place()?, usize::from(batch), runs)?)
            }
            What::Decode { video, frames, access, threads, stream, read } => {
                let limits = ReadLimits { access, threads: usize::from(threads), ..read.read_limits() };
                let sample = Sample::uniform(usize::from(frames));
                let request = FrameRequest { stream, ..FrameRequest::new(sample, Window::default()) };
                output::json(&bench_video(&video, &request, &limits, runs)?)
            }
            What::Ask { video, question, arguments } => {
                let program = std::env::current_exe()?;
                let arguments = [named.flags(), arguments].concat();
                let task = AskTask { program: &program, video: &video, question: &question, arguments: &arguments };
                let bench = bench_ask(&task, runs)?;
                output::json(&AskBench { limits: named.limits_of_gpu()?, ..bench })
            }
            What::Run { pipeline, videos, questions, batch, sequences, arguments } => {
                let program = std::env::current_exe()?;
                let sizes = [("exec.encode_batch", batch), ("exec.sequences", sequences)];
                let arguments = [named.settings(), settings(&sizes), arguments].concat();
                let task = RunTask {
                    program: &program,
                    pipeline: &pipeline,
                    videos: &videos,
                    questions: &questions,
                    arguments: &arguments,
                };
                let bench = bench_run(&task, runs)?;
                output::json(&RunBench { limits: named.limits_of_gpu()?, ..bench })
            }
            What::Checkpoint { out, size, tower } => {
                // Stored as released ones are, whatever computes the values.
                let place = BenchPlace { dtype: DType::BF16, ..named.place()? };
                let (llama, tower) = (size.config(), tower.stored());
                output::json(&write_checkpoint(&CheckpointTask { llama, tower, out: &out, place })?)
            }
            What::Llm { size, quant, kl, tokens, shared, new, sequences } => {
                output::json(&bench_language(&LanguageTask {
                    size,
                    place: named.place()?,
                    quantization: quant,
                    n_tokens: usize::from(tokens),
                    n_shared: usize::from(shared),
                    n_new: usize::from(new),
                    n_sequences: usize::from(sequences),
                    runs,
                    on_loaded: settle_for_loaded,
                    compares: if kl { Compares::Logits } else { Compares::Nothing },
                })?)
            }
        }
    }
}

/// Device and precision as the flags name them.
struct Named {
    device: Option<DeviceSpec>,
    dtype: Option<DTypeSpec>,
}

impl Named {
    /// Opens the device. Random weights have the precision that released ones are stored in, where the device computes
    /// in it.
    fn place(&self) -> anyhow::Result<BenchPlace> {
        let OpenedDevice { device, note } = self.device.unwrap_or_default().open_with_note()?;
        note.iter().for_each(|note| output::note(note));
        load_kernels(&device, &output::note)?;
        let dtype = self.dtype.unwrap_or_default().resolve(&device, DType::BF16);
        Ok(BenchPlace { device, dtype })
    }

    /// The limits of the device that a command was timed on, if it is a GPU.
    fn limits_of_gpu(&self) -> anyhow::Result<Option<DeviceLimits>> {
        let place = self.place()?;
        Ok(if place.device.is_cpu() { None } else { Some(DeviceLimits::measure(&place)?) })
    }

    fn named(&self) -> impl Iterator<Item = (&'static str, String)> {
        let device = self.device.map(|device| ("device", device.to_string()));
        device.into_iter().chain(self.dtype.map(|dtype| ("dtype", dtype.to_string())))
    }

    /// As flags of `ask`.
    fn flags(&self) -> Vec<String> {
        self.named().flat_map(|(name, value)| [format!("--{name}"), value]).collect()
    }

    /// As settings of `run`.
    fn settings(&self) -> Vec<String> {
        self.named().flat_map(|(name, value)| ["--set".to_owned(), format!("{name}={value}")]).collect()
    }
}

/// Sizes as settings of `run`, those that are named.
fn settings(sizes: &[(&str, Option<u16>)]) -> Vec<String> {
    let named = sizes.iter().filter_map(|(name, size)| Some((name, (*size)?)));
    named.flat_map(|(name, size)| ["--set".to_owned(), format!("{name}={size}")]).collect()
}
