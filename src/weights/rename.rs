//! Mapping of the tensor names of this crate's networks to those of a checkpoint.

/// Prefixes to replace. A name without a matching rule is unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rename {
    rules: Vec<(String, String)>,
}

impl Rename {
    /// Makes the renaming that changes nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds the rule that names beginning with `ours` begin with `theirs` in the file.
    #[must_use]
    pub fn prefix(mut self, ours: &str, theirs: &str) -> Self {
        self.rules.push((ours.to_owned(), theirs.to_owned()));
        self
    }

    /// Returns the name in the file. Among several matching rules the longest prefix applies.
    pub fn apply(&self, name: &str) -> String {
        let matching = self.rules.iter().filter(|(ours, _)| name.starts_with(ours.as_str()));
        match matching.max_by_key(|(ours, _)| ours.len()) {
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
