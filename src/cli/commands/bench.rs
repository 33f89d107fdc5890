//! `vidense bench`: speed of this machine, as one JSON object.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::DType;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use vidense::bench::{
    AgreementTask, AskBench, AskTask, BenchTarget, CheckpointTask, DeviceLimits, LanguageSize, LanguageTask,
    LogitComparison, RunBench, RunTask, TowerName, bench_agreement, bench_ask, bench_language, bench_run, bench_tower,
    bench_video, write_checkpoint,
};
use vidense::device::{DTypeSpec, DeviceSpec, OpenedDevice, load_kernels};
use vidense::nn::QuantFormat;
use vidense::pipeline::OpenEvent;
use vidense::video::{Access, FrameRequest, ReadLimits, Sample, Window};

use crate::cli::allocator::settle_for_loaded;
use crate::cli::args::PlanArgs;
use crate::cli::limits::ReadArgs;
use crate::cli::output;

/// Time networks of real geometry with random weights, the reading of a video, or a whole `ask` or `run`, on this
/// machine's CPU or GPU, and print one JSON object
#[derive(Args)]
pub struct Bench {
    #[command(subcommand)]
    workload: Workload,
    /// Number of runs, of which the median is taken
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Device: auto, cpu, cuda, cuda:1, metal; not used by `decode` [default: auto]
    #[arg(long, global = true)]
    device: Option<DeviceSpec>,
    /// Precision: auto, f32, f16, bf16; auto is f32 on the CPU and bf16 on a GPU [default: auto]
    #[arg(long, global = true)]
    dtype: Option<DTypeSpec>,
}

#[derive(Subcommand)]
enum Workload {
    /// A vision tower, all of its layers
    Tower {
        /// Name of the tower: clip-l-336, siglip-so400m
        #[arg(long, default_value = "clip-l-336")]
        tower: TowerName,
        /// Frames of a batch
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
        batch: u16,
    },
    /// Frames of a video, from opening it to their RGB
    Decode {
        video: PathBuf,
        /// Number of frames, uniformly sampled
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
        frames: u16,
        /// Access to frames: auto, straight, seek
        #[arg(long, default_value = "auto", value_name = "HOW")]
        access: Access,
        /// Threads of the decoder, up to 64; 0 is the number of cores
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=64))]
        threads: u16,
        /// Video stream, by its index as `inspect` prints it [default: the best video stream]
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
    /// Agreement of a device, a precision or a quantization with the same weights in f32 on the CPU: equal greedy
    /// tokens, and KL divergence after the same prefixes
    Agreement {
        video: PathBuf,
        #[arg(default_value = "What happens?")]
        question: String,
        /// Tokens of the answer
        #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
        new: u16,
        /// Further arguments of `ask`, such as `--model DIR` or `--quant q8_0`
        #[arg(last = true, value_name = "ARGUMENTS")]
        arguments: Vec<String>,
    },
    /// The whole command `run`, from the start of its process to its end
    Run {
        /// Pipeline file (YAML)
        pipeline: PathBuf,
        #[arg(required = true)]
        videos: Vec<PathBuf>,
        /// Question; may be given several times
        #[arg(long = "question", short, value_name = "TEXT", default_value = "What happens?")]
        questions: Vec<String>,
        /// Batch size of the tower, in images [default: the pipeline's]
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
        batch: Option<u16>,
        /// Limit of the sequences that are decoded together [default: the pipeline's]
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
        sequences: Option<u16>,
        /// Further arguments of `run`, such as `--set KEY=VALUE`
        #[arg(last = true, value_name = "ARGUMENTS")]
        arguments: Vec<String>,
    },
    /// Write a checkpoint of a released model's geometry with random weights, for `ask` and `run` without released
    /// weights
    Checkpoint {
        /// New directory of the checkpoint
        out: PathBuf,
        /// Size of the language model: 1.1b, 7b
        #[arg(long, default_value = "7b")]
        size: LanguageSize,
        /// Name of the vision tower: clip-l-336, siglip-so400m
        #[arg(long, default_value = "siglip-so400m")]
        tower: TowerName,
    },
    /// A language model in the engine: prefill of prompts, then decoding of all of them together
    Llm {
        /// Size of the language model: 1.1b, 7b
        #[arg(long, default_value = "1.1b")]
        size: LanguageSize,
        /// Quantize the linear layers: q8_0, q4_k
        #[arg(long, value_name = "FORMAT")]
        quant: Option<QuantFormat>,
        /// Compare the logits with those of the same weights in full precision, which needs the memory of both in turn
        #[arg(long, requires = "quant")]
        kl: bool,
        /// Positions of each prompt
        #[arg(long, default_value_t = 576, value_parser = clap::value_parser!(u16).range(1..=3072))]
        tokens: u16,
        /// Length of the prefix that all prompts share, as many questions about one video do
        #[arg(long, default_value_t = 0, value_name = "POSITIONS")]
        shared: u16,
        /// Tokens that are decoded after each prompt
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
        new: u16,
        /// Number of prompts, which are answered together
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
        sequences: u16,
        /// Draw each token at temperature 1 from this many best ones [default: greedy]
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        top_k: Option<u16>,
    },
}

impl Bench {
    /// Runs the command.
    ///
    /// # Errors
    /// When candle fails, or the video cannot be read, or `ask` fails.
    pub fn run(self) -> anyhow::Result<()> {
        let Self { workload, runs, device, dtype } = self;
        let (flags, runs) = (DeviceFlags { device, dtype }, usize::from(runs));
        match workload {
            Workload::Tower { tower, batch } => {
                output::json(&bench_tower(tower, &flags.target()?, usize::from(batch), runs)?)
            }
            Workload::Decode { video, frames, access, threads, stream, read } => {
                let limits = ReadLimits { access, threads: usize::from(threads), ..read.read_limits() };
                let sample = Sample::uniform(usize::from(frames));
                let request = FrameRequest { stream, ..FrameRequest::new(sample, Window::default()) };
                output::json(&bench_video(&video, &request, &limits, runs)?)
            }
            Workload::Ask { video, question, arguments } => {
                let program = std::env::current_exe()?;
                let arguments = [flags.arguments(), arguments].concat();
                let task = AskTask { program: &program, video: &video, question: &question, arguments: &arguments };
                let bench = bench_ask(&task, runs)?;
                output::json(&AskBench { limits: flags.limits_of_gpu()?, ..bench })
            }
            Workload::Agreement { video, question, new, arguments } => {
                let arguments = [flags.arguments(), arguments].concat();
                let flags = plan_of_greedy_answers(arguments)?;
                let (mut plan, limits) = (flags.plan()?, flags.limits());
                plan.generate.max_new_tokens = usize::from(new);
                let on_open = Arc::new(|event: OpenEvent<'_>| match event {
                    OpenEvent::Warning(warning) => output::warning(warning),
                    OpenEvent::Note(note) => output::note(note),
                    OpenEvent::Loading { .. } | OpenEvent::Read { .. } | OpenEvent::Loaded => {}
                });
                let task = AgreementTask { plan: &plan, video: &video, question: &question, limits, on_open };
                output::json(&bench_agreement(&task)?)
            }
            Workload::Run { pipeline, videos, questions, batch, sequences, arguments } => {
                let program = std::env::current_exe()?;
                let sizes = [("exec.encode_batch", batch), ("exec.sequences", sequences)];
                let arguments = [flags.settings(), settings(&sizes), arguments].concat();
                let task = RunTask {
                    program: &program,
                    pipeline: &pipeline,
                    videos: &videos,
                    questions: &questions,
                    arguments: &arguments,
                };
                let bench = bench_run(&task, runs)?;
                output::json(&RunBench { limits: flags.limits_of_gpu()?, ..bench })
            }
            Workload::Checkpoint { out, size, tower } => {
                // Released checkpoints are stored in bf16, whatever precision computes.
                let target = BenchTarget { dtype: DType::BF16, ..flags.target()? };
                let (llama, tower) = (size.config(), tower.stored());
                output::json(&write_checkpoint(&CheckpointTask { llama, tower, out: &out, target })?)
            }
            Workload::Llm { size, quant, kl, tokens, shared, new, sequences, top_k } => {
                output::json(&bench_language(&LanguageTask {
                    size,
                    target: flags.target()?,
                    quantization: quant,
                    n_tokens: usize::from(tokens),
                    n_shared: usize::from(shared),
                    n_new: usize::from(new),
                    n_sequences: usize::from(sequences),
                    top_k: top_k.map(usize::from),
                    runs,
                    on_loaded: settle_for_loaded,
                    comparison: if kl { LogitComparison::LastPositions } else { LogitComparison::None },
                })?)
            }
        }
    }
}

/// Arguments of `ask` without video and question.
#[derive(Parser)]
struct AskArguments {
    #[command(flatten)]
    plan: PlanArgs,
}

/// Returns the flags of `ask` of a comparison of greedy answers. Flags of sampling are refused: nothing would use them.
fn plan_of_greedy_answers(arguments: Vec<String>) -> anyhow::Result<PlanArgs> {
    const UNUSED: [&str; 6] = ["max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed"];
    let matches = AskArguments::command().get_matches_from(["ask".to_owned()].into_iter().chain(arguments));
    let is_given = |name: &&&str| matches.value_source(name) == Some(ValueSource::CommandLine);
    if let Some(name) = UNUSED.iter().find(is_given) {
        anyhow::bail!("--{}: not used; hint: the answers are greedy, of --new tokens", name.replace('_', "-"));
    }
    Ok(AskArguments::from_arg_matches(&matches)?.plan)
}

/// Flags `--device` and `--dtype`.
struct DeviceFlags {
    device: Option<DeviceSpec>,
    dtype: Option<DTypeSpec>,
}

impl DeviceFlags {
    /// Opens the device. Random weights have the precision of released checkpoints, where the device computes in it.
    fn target(&self) -> anyhow::Result<BenchTarget> {
        let OpenedDevice { device, note } = self.device.unwrap_or_default().open_with_note()?;
        note.iter().for_each(|note| output::note(note));
        load_kernels(&device, &output::note)?;
        let dtype = self.dtype.unwrap_or_default().resolve(&device, DType::BF16);
        Ok(BenchTarget { device, dtype })
    }

    /// Measures the peak rates of the device, if it is a GPU.
    fn limits_of_gpu(&self) -> anyhow::Result<Option<DeviceLimits>> {
        let target = self.target()?;
        Ok(if target.device.is_cpu() { None } else { Some(DeviceLimits::measure(&target)?) })
    }

    /// Returns name and value of the given flags.
    fn given(&self) -> impl Iterator<Item = (&'static str, String)> {
        let device = self.device.map(|device| ("device", device.to_string()));
        device.into_iter().chain(self.dtype.map(|dtype| ("dtype", dtype.to_string())))
    }

    /// Returns the given flags as arguments of `ask`.
    fn arguments(&self) -> Vec<String> {
        self.given().flat_map(|(name, value)| [format!("--{name}"), value]).collect()
    }

    /// Returns the given flags as `--set` assignments of `run`.
    fn settings(&self) -> Vec<String> {
        self.given().flat_map(|(name, value)| ["--set".to_owned(), format!("{name}={value}")]).collect()
    }
}

/// Returns the given sizes as `--set` assignments of `run`.
fn settings(sizes: &[(&str, Option<u16>)]) -> Vec<String> {
    let named = sizes.iter().filter_map(|(name, size)| Some((name, (*size)?)));
    named.flat_map(|(name, size)| ["--set".to_owned(), format!("{name}={size}")]).collect()
}
