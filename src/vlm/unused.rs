//! Handling of parts of a checkpoint that would stay unused: refused, unless the user allows it.
//!
//! A tensor or a `config.json` key that changes the arithmetic and is not used means other answers than those of the
//! trained model. Called by [`super::Vlm::load`] and the readers of configuration files.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

/// Largest number of names in a message; the rest is counted.
const MAX_NAMED: usize = 8;

/// Handling of a checkpoint with tensors or configuration keys that should be used and are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unused {
    /// The model is refused.
    #[default]
    Refuse,
    /// The model is loaded, with a warning.
    Allow,
}

impl Unused {
    /// Refuses the checkpoint at `path` for its unused `names`, which are `what` (`tensors` or `keys`), or returns a
    /// warning in place of the error; `None` without names.
    ///
    /// # Errors
    /// [`Error`] unless allowed.
    pub(crate) fn enforce(self, path: &Path, what: &'static str, names: &[String]) -> Result<Option<String>, Error> {
        if names.is_empty() {
            return Ok(None);
        }
        let rule = format!("{what} that are not used ({}): {}", names.len(), list(names));
        let error = Error::new(Kind::Model, rule).about(path);
        match self {
            Self::Refuse => Err(error.with_hint("--allow-unused loads the model without them")),
            Self::Allow => Ok(Some(error.to_string())),
        }
    }
}

fn list(names: &[String]) -> String {
    let named = names.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => named,
        rest => format!("{named} and {rest} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_names_refuse_or_warn_and_are_counted() {
        let names: Vec<String> = (0..10).map(|i| format!("x.{i}")).collect();
        let enforce = |unused: Unused, names: &[String]| unused.enforce(Path::new("m"), "tensors", names);
        let listed = "m: tensors that are not used (10): x.0, x.1, x.2, x.3, x.4, x.5, x.6, x.7 and 2 more";
        let refused = enforce(Unused::Refuse, &names).expect_err("refused").to_string();
        assert_eq!(refused, format!("{listed}; hint: --allow-unused loads the model without them"));
        assert_eq!(enforce(Unused::Allow, &names).expect("allowed").as_deref(), Some(listed));
        assert_eq!(enforce(Unused::Refuse, &[]).expect("nothing unused"), None);
    }
}
