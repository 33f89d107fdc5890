//! `vidense train RECIPE`: training of a model from a recipe.

use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;
use vidense::device::{DTypeSpec, DeviceSpec};
use vidense::error::Error;
use vidense::train::{EarlierRun, Output, RUN_DIR, Recipe, TrainEvent, TrainResources, train};
use vidense::weights::{DownloadProgress, Hub};

use crate::cli::{output, progress};

/// Train a model from a recipe, or resume an earlier run
#[derive(Args)]
pub struct Train {
    /// Recipe, a YAML file
    recipe: PathBuf,
    /// Directory of the trained model, and of the run's own files
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Directory of the frozen tower's features, which runs may share [default: DIR/run]
    #[arg(long, value_name = "DIR")]
    features: Option<PathBuf>,
    /// Discard the state of an earlier run in DIR
    #[arg(long)]
    restart: bool,
    /// Device: auto, cpu, cuda, cuda:1, metal
    #[arg(long, default_value = "auto")]
    device: DeviceSpec,
    /// Precision in which the model is written: f16, bf16, f32
    #[arg(long, default_value = "f16")]
    dtype: DTypeSpec,
}

impl Train {
    /// Runs the command.
    ///
    /// # Errors
    /// Any error that stops the command.
    pub fn run(self) -> anyhow::Result<()> {
        run_kernels_alone();
        let recipe = Recipe::read(&self.recipe)?;
        let DTypeSpec::Fixed(dtype) = self.dtype else {
            let error = Error::invalid("a model is written in one precision").with_hint("f16, bf16, f32");
            return Err(error.about("--dtype auto").into());
        };
        let device = self.device.open()?;
        let run_dir = self.out.join(RUN_DIR);
        let bar = progress::training();
        let features = self.features.as_deref().unwrap_or(&run_dir);
        let earlier = if self.restart { EarlierRun::Discard } else { EarlierRun::Resume };
        let output = Output { model: &self.out, features, dtype, earlier };
        let resources = TrainResources { device: &device, hub: &Hub::from_env(DownloadProgress::Shown) };
        train(&recipe, output, resources, &mut |event| {
            show(&bar, event);
            Ok(())
        })?;
        bar.finish_and_clear();
        Ok(output::path(&self.out)?)
    }
}

fn show(bar: &ProgressBar, event: &TrainEvent) {
    match event {
        TrainEvent::Resumed { stage, step } => output::note(&format!("resumed: stage {stage}, step {step}")),
        TrainEvent::SourcesNotCompared => output::warning(
            "the state of the earlier run has no hashes of the weights that it began with; they are not compared",
        ),
        TrainEvent::AllDone => output::note("all stages are done: only the model is written again"),
        TrainEvent::Encoded { n_images, of } => {
            bar.set_length(*of as u64);
            bar.set_position(*n_images as u64);
            bar.set_message("encoding images");
        }
        TrainEvent::Step(step) => {
            bar.set_length(step.steps as u64);
            bar.set_position(step.step as u64 + 1);
            bar.set_message(format!(
                "{}: loss {:.3}, {:.1} % right, {:.0} tokens/s",
                step.stage,
                step.loss,
                100.0 * step.accuracy,
                step.tokens_per_second
            ));
        }
    }
}

/// Makes candle's kernels single-threaded: micro-batches run in parallel, and would wait for each other in the thread
/// pool.
fn run_kernels_alone() {
    const THREADS: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(THREADS).is_none() {
        // SAFETY: called at the start of the command, before any other thread that could read the environment.
        unsafe { std::env::set_var(THREADS, "1") };
    }
}
