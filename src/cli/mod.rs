//! Command line: one file for each command, flags that commands share in `args` and `limits`. Only this layer prints,
//! uses `anyhow` or decides the exit code: 0 done, 1 done except for some items, 2 not done.

pub mod allocator;
mod args;
mod batch_messages;
mod commands;
mod download;
mod interrupt;
mod limits;
mod metrics;
pub mod output;
mod plan_flags;
mod progress;
mod session;
mod sheet;
mod stored_run;
pub mod threads;
mod timings;
mod trace;

use std::io::ErrorKind;

use clap::{Parser, Subcommand};
use vidense::error::Error;

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
    Run(commands::run::RunCommand),
    Batch(Box<commands::batch::BatchCommand>),
    Results(commands::results::ResultsCommand),
    Cache(commands::cache::Cache),
    Frames(commands::frames::Frames),
    Inspect(commands::inspect::Inspect),
    Train(commands::train::Train),
    Eval(Box<commands::eval::Eval>),
    Bench(commands::bench::Bench),
    World(commands::world::World),
    Schema(commands::schema::Schema),
    #[cfg(feature = "serve")]
    Serve(Box<commands::serve::Serve>),
    Completions(commands::completions::Completions),
    #[command(name = "man")]
    ManualPages(commands::man::ManualPages),
    DecodeWorker(commands::decode_worker::DecodeWorker),
}

impl Command {
    /// Returns whether the command has a flag for the format of standard error.
    fn has_log_format(&self) -> bool {
        match self {
            Self::Batch(_) => true,
            #[cfg(feature = "serve")]
            Self::Serve(_) => true,
            _ => false,
        }
    }
}

/// Parses the command line, or prints why it is invalid and ends the process. Arguments may contain any character, so
/// they are parsed once more in printable form for the message.
pub fn parse() -> Arguments {
    Arguments::try_parse().unwrap_or_else(|error| {
        let printable = std::env::args_os().map(|typed| output::printable(&typed.to_string_lossy()).into_owned());
        Arguments::try_parse_from(printable).err().unwrap_or(error).exit()
    })
}

/// Runs the command of the arguments.
///
/// # Errors
/// The error that stopped the command, as text for the user.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    // A decoding process is watched by the process that started it.
    if !matches!(arguments.command, Command::DecodeWorker(_)) {
        interrupt::end_if_stuck();
    }
    if !arguments.command.has_log_format() {
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
        #[cfg(feature = "serve")]
        Command::Serve(command) => command.run(),
        Command::Completions(command) => command.run(),
        Command::ManualPages(command) => command.run(),
        Command::DecodeWorker(command) => command.run(),
    }
}

/// Error of a command that finished except for some items. Each failure was printed when it happened.
#[derive(Debug)]
pub struct SomeFailed {
    /// Number of failed items.
    pub n_failed: usize,
}

impl std::fmt::Display for SomeFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} item(s) failed", self.n_failed)
    }
}

impl std::error::Error for SomeFailed {}

/// Error of a command that was stopped before its end. Its results so far are kept.
#[derive(Debug)]
pub struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Error::invalid("stopped before the end").with_hint("the same command resumes").fmt(f)
    }
}

impl std::error::Error for Stopped {}

/// Returns whether the command finished except for some items, or was stopped.
pub fn is_done_in_part(error: &anyhow::Error) -> bool {
    error.is::<SomeFailed>() || error.is::<Stopped>()
}

/// Returns whether the reader of standard output closed it.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
