//! From the names that our networks ask for to the names that a checkpoint uses.

/// A list of prefixes to replace. A name that no rule fits stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rename {
    rules: Vec<(String, String)>,
}

impl Rename {
    /// The renaming that changes nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds the rule that names beginning with `ours` begin with `theirs` in the file.
    #[must_use]
    pub fn prefix(mut self, ours: &str, theirs: &str) -> Self {
        self.rules.push((ours.to_owned(), theirs.to_owned()));
        self
    }

    /// The name in the file. Of several rules that fit, the longest prefix wins.
    pub fn apply(&self, name: &str) -> String {
        let fitting = self.rules.iter().filter(|(ours, _)| name.starts_with(ours.as_str()));
        match fitting.max_by_key(|(ours, _)| ours.len()) {
            Some((ours, theirs)) => format!("{theirs}{}", &name[ours.len()..]),
            None => name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_and_others_stay() {
        let rename = Rename::none().prefix("mm_projector.", "p.").prefix("mm_projector.2.", "linear_2.");
        assert_eq!(rename.apply("mm_projector.2.bias"), "linear_2.bias");
        assert_eq!(rename.apply("mm_projector.0.bias"), "p.0.bias");
        assert_eq!(rename.apply("lm_head.weight"), "lm_head.weight");
    }
}
