//! Positions of keys in a YAML text, for messages only: `yaml.rs` reads the values.
//!
//! The text is parsed by `saphyr`, which keeps line and column of every node and refuses a second occurrence of a key.
//! `serde_yaml` does neither, and resolves scalars, aliases and limits of nesting in its own way, so values come from
//! `serde_yaml` alone.

use saphyr::{LoadableYamlNode, MarkedYaml, Marker, YamlData};

/// Position in a text; line and column are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TextPosition {
    pub(super) line: usize,
    /// Column in characters.
    pub(super) column: usize,
}

impl From<Marker> for TextPosition {
    fn from(marker: Marker) -> Self {
        Self { line: marker.line().max(1), column: marker.col() + 1 }
    }
}

/// Returns the position of the value at `path`, or of its innermost ancestor in the text; `None` for a text that is not
/// YAML.
pub(super) fn locate(text: &str, path: &[String]) -> Option<TextPosition> {
    let documents = MarkedYaml::load_from_str(text).ok()?;
    Some(walk(documents.first()?, path).0)
}

/// Returns the number of leading keys of `path` that the text contains.
pub(super) fn depth(text: &str, path: &[String]) -> usize {
    let documents = MarkedYaml::load_from_str(text).unwrap_or_default();
    documents.first().map_or(0, |root| walk(root, path).1)
}

/// Returns the position at which the parser stops: in a text that `serde_yaml` parses, that of a key's second
/// occurrence.
pub(super) fn locate_duplicate(text: &str) -> Option<TextPosition> {
    MarkedYaml::load_from_str(text).err().map(|error| (*error.marker()).into())
}

/// Follows a path: the position of the last key or item that is found, and the number of keys up to it.
fn walk(root: &MarkedYaml<'_>, path: &[String]) -> (TextPosition, usize) {
    let (mut node, mut position) = (root, root.span.start.into());
    for (depth, key) in path.iter().enumerate() {
        // The position of a key, not of its value: an empty value has none.
        let next = match &node.data {
            YamlData::Mapping(map) => map
                .iter()
                .find(|(name, _)| scalar_text(name) == Some(key.as_str()))
                .map(|(name, value)| (value, name.span.start)),
            YamlData::Sequence(items) => {
                let item = key.parse::<usize>().ok().and_then(|i| items.get(i));
                item.map(|item| (item, item.span.start))
            }
            _ => None,
        };
        let Some((value, start)) = next else { return (position, depth) };
        (node, position) = (value, start.into());
    }
    (position, path.len())
}

fn scalar_text<'a>(node: &'a MarkedYaml<'_>) -> Option<&'a str> {
    match &node.data {
        YamlData::Value(scalar) => scalar.as_str(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "model: mini\ntemporal:\n  max_pool:\n    stride: x\nlist: [1, 2,\n   3]\n";

    fn at(path: &str) -> Option<(usize, usize)> {
        let path: Vec<String> = path.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect();
        locate(TEXT, &path).map(|position| (position.line, position.column))
    }

    #[test]
    fn keys_have_line_and_column() {
        assert_eq!(at("model"), Some((1, 1)));
        assert_eq!(at("temporal.max_pool"), Some((3, 3)));
        assert_eq!(at("temporal.max_pool.stride"), Some((4, 5)));
        assert_eq!(at("list.2"), Some((6, 4)));
    }

    #[test]
    fn a_missing_key_has_the_position_of_its_parent() {
        assert_eq!(at("temporal.concat"), Some((2, 1)));
        assert_eq!(at("nothing"), Some((1, 1)));
        assert_eq!(locate(":\n\t- {", &[]), None);
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(depth(TEXT, &path("temporal.max_pool.kernel")), 2);
        assert_eq!(depth(TEXT, &path("list.1")), 2);
    }

    #[test]
    fn the_second_occurrence_of_a_key_is_located_inside_flow_mappings_and_under_other_parents_too() {
        let at = |text: &str| locate_duplicate(text).map(|position| (position.line, position.column));
        assert_eq!(at("model: x\nmodel: y"), Some((2, 1)));
        assert_eq!(at("a: { x: 1 }\nb: { x: 1, y: 2, x: 3 }"), Some((2, 18)));
        assert_eq!(at("a: 1\nb: 2"), None);
    }
}
