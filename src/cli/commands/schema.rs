//! `vidense schema`: the JSON Schema of pipeline files.

use clap::Args;
use vidense::spec::editor_schema;

use crate::cli::output;

/// Print the JSON Schema of pipeline files, for completion and validation in editors
///
/// A first line `# yaml-language-server: $schema=FILE` names it to an editor.
#[derive(Args)]
pub struct Schema {}

impl Schema {
    /// Runs the command.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn run(self) -> anyhow::Result<()> {
        Ok(output::line(&serde_json::to_string_pretty(&editor_schema())?)?)
    }
}
