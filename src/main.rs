//! The `vidense` binary: arguments in, answers to standard output, everything else to standard error.

#![allow(unreachable_pub, reason = "a binary has no public interface")]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::allocator::settle();
    cli::threads::settle();
    match cli::run(cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of standard output closed it: success.
        Err(error) if cli::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if cli::is_done_in_part(&error) => {
            cli::output::error(&error);
            ExitCode::from(1)
        }
        Err(error) => {
            cli::output::error(&error);
            ExitCode::from(2)
        }
    }
}
