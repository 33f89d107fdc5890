//! One-line notation of a choice with options, such as a temporal strategy: `name`, `name:option=value,option=value`,
//! or `name:value` for a choice with a single option. In YAML the same choice is a map of one key.
//!
//! The notation is derived from the choice's serde representation, so an option is declared once. Names without
//! options are enums with strum's `EnumString`; [`unknown_name`] makes their error.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{About, Error, Result};

/// Returns the name and the options of a choice.
pub(crate) fn name_and_options<T: Serialize>(choice: &T) -> (String, Map<String, Value>) {
    match serde_json::to_value(choice) {
        Ok(Value::Object(entry)) => match entry.into_iter().next() {
            Some((name, Value::Object(options))) => (name, options),
            Some((name, _)) => (name, Map::new()),
            None => Default::default(),
        },
        Ok(Value::String(name)) => (name, Map::new()),
        _ => Default::default(),
    }
}

/// Formats a choice as one line, which [`parse`] reads back. Options that are null are left out.
pub(crate) fn to_line<T: Serialize>(choice: &T) -> String {
    let (mut text, options) = name_and_options(choice);
    for (i, (key, value)) in options.iter().filter(|(_, value)| !value.is_null()).enumerate() {
        text.push(if i == 0 { ':' } else { ',' });
        if options.len() > 1 {
            text.push_str(&format!("{key}="));
        }
        match value {
            Value::String(value) => text.push_str(value),
            Value::Array(values) => {
                text.push_str(&values.iter().map(Value::to_string).collect::<Vec<_>>().join("+"));
            }
            value => text.push_str(&value.to_string()),
        }
    }
    text
}

/// Parses a line as one of the `known` choices, with its options replaced by those of the line. `noun` names the kind
/// of choice in errors.
///
/// # Errors
/// An unknown name or option, with the known ones, or an invalid value.
pub fn parse<T: Serialize + DeserializeOwned + Clone>(text: &str, noun: &str, known: &[T]) -> Result<T> {
    let (name, rest) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
    let Some(choice) = known.iter().find(|choice| name_and_options(*choice).0 == name) else {
        let names: Vec<String> = known.iter().map(|choice| name_and_options(choice).0).collect();
        return Err(unknown_name(noun, name, &names));
    };
    let Some(rest) = rest else { return Ok(choice.clone()) };
    let options = with_options(name, name_and_options(choice).1, rest);
    let options = options.about(format!("`{text}`"))?;
    let map = Map::from_iter([(name.to_owned(), Value::Object(options))]);
    serde_json::from_value(Value::Object(map))
        .map_err(|error| Error::invalid(error.to_string()))
        .about(format!("`{text}`"))
}

/// Replaces options of the choice `name` by those of `text`, `option=value,option=value`.
fn with_options(name: &str, mut options: Map<String, Value>, text: &str) -> Result<Map<String, Value>> {
    let names: Vec<String> = options.keys().cloned().collect();
    for option in text.split(',') {
        let (key, value) = match (option.split_once('='), names.as_slice()) {
            (Some(pair), _) => pair,
            (None, [only]) => (only.as_str(), option),
            (None, _) => return Err(Error::invalid(format!("invalid option `{option}`; expected option=value"))),
        };
        let Some(slot) = options.get_mut(key) else {
            let hint = if names.is_empty() { format!("{name} has no options") } else { names.join(", ") };
            return Err(Error::invalid(format!("unknown option `{key}` of {name}")).with_hint(hint));
        };
        *slot = parse_value(value, slot.is_array());
    }
    Ok(options)
}

/// Parses a number or a word; for a list, its items between `+`.
fn parse_value(text: &str, is_list: bool) -> Value {
    if is_list {
        return text.split('+').filter(|item| !item.is_empty()).map(|item| parse_value(item, false)).collect();
    }
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// Returns the error for a name outside `known`, with the nearest name and the known ones as the hint.
pub fn unknown_name(noun: &str, name: &str, known: &[impl AsRef<str>]) -> Error {
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    let list = known.join(", ");
    let hint = match nearest(name, &known) {
        Some(best) => format!("did you mean `{best}`? known: {list}"),
        None => list,
    };
    Error::invalid(format!("unknown {noun} `{name}`")).with_hint(hint)
}

/// Returns the known name with the smallest edit distance to `name`, if that is small enough for a misspelling.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let distance = |known: &&str| strsim::damerau_levenshtein(name, known);
    known.iter().copied().min_by_key(distance).filter(|best| distance(best) <= 1 + name.chars().count() / 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Meal {
        Nothing,
        Soup(Soup),
        Menu { courses: Vec<f64>, wine: String },
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Soup {
        spoons: usize,
    }

    fn known() -> [Meal; 3] {
        [Meal::Nothing, Meal::Soup(Soup { spoons: 2 }), Meal::Menu { courses: vec![1.0, 2.5], wine: "red".to_owned() }]
    }

    #[test]
    fn choices_print_as_they_are_read() {
        for meal in known() {
            assert_eq!(parse(&to_line(&meal), "meal", &known()).ok(), Some(meal));
        }
        assert_eq!(known().map(|meal| to_line(&meal)), ["nothing", "soup:2", "menu:courses=1.0+2.5,wine=red"]);
        assert_eq!(parse("soup:7", "meal", &known()).ok(), Some(Meal::Soup(Soup { spoons: 7 })));
        let menu = Meal::Menu { courses: vec![4.0], wine: "red".to_owned() };
        assert_eq!(parse("menu:courses=4", "meal", &known()).ok(), Some(menu));
    }

    #[test]
    fn unknown_names_and_options_are_refused_with_the_known_ones() {
        let error = |text: &str| parse(text, "meal", &known()).expect_err("refused").to_string();
        assert_eq!(error("soop"), "unknown meal `soop`; hint: did you mean `soup`? known: nothing, soup, menu");
        assert_eq!(error("sandwich"), "unknown meal `sandwich`; hint: nothing, soup, menu");
        assert_eq!(error("menu:beer=1"), "`menu:beer=1`: unknown option `beer` of menu; hint: courses, wine");
        assert_eq!(error("nothing:1"), "`nothing:1`: invalid option `1`; expected option=value");
        assert_eq!(error("nothing:a=1"), "`nothing:a=1`: unknown option `a` of nothing; hint: nothing has no options");
        assert!(error("soup:cold").starts_with("`soup:cold`: invalid type: string"), "{}", error("soup:cold"));
    }
}
