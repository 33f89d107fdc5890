//! The command line: one file a command, shared flags in `args`. Only this layer prints or knows exit codes.

mod args;
mod commands;
pub mod output;
mod progress;
mod session;
mod sheet;
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
    Frames(commands::frames::Frames),
    Inspect(commands::inspect::Inspect),
    Train(commands::train::Train),
    Eval(commands::eval::Eval),
    World(commands::world::World),
    Schema(commands::schema::Schema),
}

/// Runs the command that was asked for.
///
/// # Errors
/// Whatever stops it, in words for the user.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Ask(command) => command.run(),
        Command::Chat(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Frames(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Train(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::World(command) => command.run(),
        Command::Schema(command) => command.run(),
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

/// Whether the command was done, but for some of its items.
pub fn is_done_in_part(error: &anyhow::Error) -> bool {
    error.is::<SomeFailed>()
}

/// Whether the reader of our output has gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
