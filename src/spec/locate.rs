//! Where in a YAML text a key stands: for messages only. What the text means is `yaml.rs`'s matter.

use saphyr::{LoadableYamlNode, MarkedYaml, YamlData};

/// A place in a text, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// The place of the value at `path`, or of the nearest key on the way to it. None for a text that is no YAML.
pub fn locate(text: &str, path: &[String]) -> Option<Place> {
    let documents = MarkedYaml::load_from_str(text).ok()?;
    let mut node = documents.first()?;
    let mut place = of(node);
    for key in path {
        let next = match &node.data {
            YamlData::Mapping(map) => map.iter().find(|(name, _)| text_of(name) == Some(key.as_str())),
            YamlData::Sequence(items) => {
                let Some(item) = key.parse::<usize>().ok().and_then(|i| items.get(i)) else { break };
                (node, place) = (item, of(item));
                continue;
            }
            _ => None,
        };
        let Some((name, value)) = next else { break };
        // The key says more than the value: an empty value has no place of its own.
        (node, place) = (value, of(name));
    }
    Some(place)
}

/// How many keys of `path` a text has.
pub fn depth(text: &str, path: &[String]) -> usize {
    let Ok(documents) = MarkedYaml::load_from_str(text) else { return 0 };
    let Some(mut node) = documents.first() else { return 0 };
    for (found, key) in path.iter().enumerate() {
        let next = match &node.data {
            YamlData::Mapping(map) => map.iter().find(|(name, _)| text_of(name) == Some(key.as_str())).map(|(_, v)| v),
            YamlData::Sequence(items) => key.parse::<usize>().ok().and_then(|i| items.get(i)),
            _ => None,
        };
        let Some(next) = next else { return found };
        node = next;
    }
    path.len()
}

fn text_of<'a>(node: &'a MarkedYaml<'_>) -> Option<&'a str> {
    match &node.data {
        YamlData::Value(scalar) => scalar.as_str(),
        _ => None,
    }
}

fn of(node: &MarkedYaml<'_>) -> Place {
    Place { line: node.span.start.line().max(1), column: node.span.start.col() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "model: mini\ntemporal:\n  max_pool:\n    stride: x\nlist: [1, 2,\n   3]\n";

    fn at(path: &str) -> Option<(usize, usize)> {
        let path: Vec<String> = path.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect();
        locate(TEXT, &path).map(|place| (place.line, place.column))
    }

    #[test]
    fn keys_are_found_where_they_stand() {
        assert_eq!(at("model"), Some((1, 1)));
        assert_eq!(at("temporal.max_pool"), Some((3, 3)));
        assert_eq!(at("temporal.max_pool.stride"), Some((4, 5)));
        assert_eq!(at("list.2"), Some((6, 4)));
    }

    #[test]
    fn a_key_that_is_not_there_is_at_its_parent() {
        assert_eq!(at("temporal.concat"), Some((2, 1)));
        assert_eq!(at("nothing"), Some((1, 1)));
        assert_eq!(locate(":\n\t- {", &[]), None);
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(depth(TEXT, &path("temporal.max_pool.kernel")), 2);
        assert_eq!(depth(TEXT, &path("list.1")), 2);
    }
}
