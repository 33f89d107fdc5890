//! `vidense man`: manual pages, made from the same texts as `--help`.

use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _};
use clap_mangen::Man;
use vidense::error::About as _;
use vidense::files::{self, Durability};

use crate::cli::{Arguments, output};

/// Print the manual page of vidense, or write one page for each command
#[derive(Args)]
pub struct ManualPages {
    /// Write the pages of all commands into this directory: vidense.1, vidense-ask.1, ...
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl ManualPages {
    /// Runs the command.
    ///
    /// # Errors
    /// When standard output or a page cannot be written.
    pub fn run(self) -> anyhow::Result<()> {
        let mut command = Arguments::command().disable_help_subcommand(true);
        command.build();
        let Some(dir) = self.out else {
            return Ok(output::part(&String::from_utf8_lossy(&render(&Man::new(command))?))?);
        };
        files::output::create_directory(&dir).about(&dir)?;
        write_pages(&command, &dir)
    }
}

/// Writes the page of a command and those of its visible subcommands, and prints their paths.
fn write_pages(command: &Command, dir: &Path) -> anyhow::Result<()> {
    let page = Man::new(command.clone());
    let path = dir.join(page.get_filename());
    files::output::replace(&path, &render(&page)?, Durability::Renamed).about(&path)?;
    output::path(&path)?;
    command.get_subcommands().filter(|command| !command.is_hide_set()).try_for_each(|command| write_pages(command, dir))
}

fn render(page: &Man) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    page.render(&mut bytes)?;
    Ok(bytes)
}
