//! `vidense completions SHELL`: the completion script of a shell, made from the declarations of all commands.

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::{Arguments, output};

/// Print the completion script of a shell
///
/// For bash: `vidense completions bash > ~/.local/share/bash-completion/completions/vidense`. `make install` installs
/// the scripts of bash, zsh and fish.
#[derive(Args)]
pub struct Completions {
    /// Shell of the script
    shell: Shell,
}

impl Completions {
    /// Runs the command.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn run(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(
            self.shell,
            &mut without_hidden(&Arguments::command()),
            env!("CARGO_BIN_NAME"),
            &mut script,
        );
        Ok(output::part(&String::from_utf8_lossy(&script))?)
    }
}

/// Returns a command with its arguments and its visible subcommands: the scripts of some shells name hidden ones too.
fn without_hidden(command: &Command) -> Command {
    Command::new(env!("CARGO_BIN_NAME"))
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments().cloned())
        .subcommands(command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()).cloned())
}
