//! The command line: one file a command, shared flags in `args`. Only this layer prints or knows exit codes.

pub mod allocator;
mod args;
mod commands;
mod interrupt;
mod limits;
mod metrics;
pub mod output;
mod progress;
mod session;
mod sheet;
pub mod threads;
mod timings;
mod trace;

use std::io::ErrorKind;

use clap::{Parser, Subcommand};

/// Ask questions about videos with image-trained multimodal models, without training on video.
#[derive(Parser)]
#[command(version, max_term_width = 110, propagate_version = false)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ask(commands::ask::Ask),
    Chat(commands::chat::Chat),
    Run(commands::run::Run),
    Batch(Box<commands::batch::BatchCommand>),
    Results(commands::results::Results),
    Cache(commands::cache::Cache),
    Frames(commands::frames::Frames),
    Inspect(commands::inspect::Inspect),
    Train(commands::train::Train),
    Eval(commands::eval::Eval),
    Bench(commands::bench::Bench),
    World(commands::world::World),
    Schema(commands::schema::Schema),
    DecodeWorker(commands::decode_worker::DecodeWorker),
}

/// Reads the command line. Where it cannot be understood that is told, and the process ends; what was typed may hold any
/// character, so it is read once more as it is printed.
pub fn parse() -> Arguments {
    Arguments::try_parse().unwrap_or_else(|error| {
        let shown = std::env::args_os().map(|typed| output::printable(&typed.to_string_lossy()).into_owned());
        Arguments::try_parse_from(shown).err().unwrap_or(error).exit()
    })
}

/// Runs the command that was asked for.
///
/// # Errors
/// Whatever stops it, in words for the user.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    // A process that decodes for another one is watched by that.
    if !matches!(arguments.command, Command::DecodeWorker(_)) {
        interrupt::end_if_stuck();
    }
    // `batch` has a flag for it.
    if !matches!(arguments.command, Command::Batch(_)) {
        output::log_as(output::LogFormat::Text);
    }
    match arguments.command {
        Command::Ask(command) => command.run(),
        Command::Chat(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Batch(command) => command.run(),
        Command::Results(command) => command.run(),
        Command::Cache(command) => command.run(),
        Command::Frames(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Train(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::World(command) => command.run(),
        Command::Schema(command) => command.run(),
        Command::DecodeWorker(command) => command.run(),
    }
}

/// A command that was done, but for some of its items. Each was told when it failed.
#[derive(Debug)]
pub struct SomeFailed {
    /// How many.
    pub n_failed: usize,
}

impl std::fmt::Display for SomeFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} item(s) failed", self.n_failed)
    }
}

impl std::error::Error for SomeFailed {}

/// A command that was asked to stop before it was done; what it did is kept.
#[derive(Debug)]
pub struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped before everything was done; hint: the same command goes on")
    }
}

impl std::error::Error for Stopped {}

/// Whether the command was done, but for some of its items.
pub fn is_done_in_part(error: &anyhow::Error) -> bool {
    error.is::<SomeFailed>() || error.is::<Stopped>()
}

/// Whether the reader of our output has gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
