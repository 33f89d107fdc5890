//! A choice with options, such as a temporal strategy, in one line of text: `name`, `name:option=value,option=value`,
//! or `name:value` where there is one option. In YAML the same choice is a map of one key.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A choice's name, and its options.
pub fn parts<T: Serialize>(choice: &T) -> (String, Map<String, Value>) {
    match serde_json::to_value(choice) {
        Ok(Value::Object(one)) => match one.into_iter().next() {
            Some((name, Value::Object(options))) => (name, options),
            Some((name, _)) => (name, Map::new()),
            None => Default::default(),
        },
        Ok(Value::String(name)) => (name, Map::new()),
        _ => Default::default(),
    }
}

/// A choice as a line.
pub fn line<T: Serialize>(choice: &T) -> String {
    let (mut text, options) = parts(choice);
    // What is left open has no words.
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

/// Reads a line as one of `known` choices, whose options it may change. `what` is what they are.
///
/// # Errors
/// In words, with what is known in place of what is not.
pub fn parse<T: Serialize + DeserializeOwned + Clone>(text: &str, what: &str, known: &[T]) -> Result<T, String> {
    let (name, rest) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
    let Some(choice) = known.iter().find(|choice| parts(*choice).0 == name) else {
        let names: Vec<String> = known.iter().map(|choice| parts(choice).0).collect();
        return Err(format!("`{text}` is no {what}; hint: {}", names.join(", ")));
    };
    let Some(rest) = rest else { return Ok(choice.clone()) };
    let mut options = parts(choice).1;
    let names: Vec<String> = options.keys().cloned().collect();
    for option in rest.split(',') {
        let (key, value) = match (option.split_once('='), names.as_slice()) {
            (Some(pair), _) => pair,
            (None, [only]) => (only.as_str(), option),
            (None, _) => return Err(format!("`{text}`: `{option}` is no option=value")),
        };
        let Some(slot) = options.get_mut(key) else {
            let hint = if names.is_empty() { "it has none".to_owned() } else { names.join(", ") };
            return Err(format!("`{text}`: {name} has no option `{key}`; hint: {hint}"));
        };
        *slot = read(value, slot.is_array());
    }
    let one = Map::from_iter([(name.to_owned(), Value::Object(options))]);
    serde_json::from_value(Value::Object(one)).map_err(|error| format!("`{text}`: {error}"))
}

/// A number or a word; of a list the items, which `+` parts.
fn read(text: &str, is_list: bool) -> Value {
    if is_list {
        return text.split('+').filter(|item| !item.is_empty()).map(|item| read(item, false)).collect();
    }
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// The known name that `name` is most like, if one is.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let far = |known: &&str| strsim::damerau_levenshtein(name, known);
    known.iter().copied().min_by_key(far).filter(|best| far(best) <= 1 + name.chars().count() / 3)
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
            assert_eq!(parse(&line(&meal), "meal", &known()), Ok(meal));
        }
        assert_eq!(known().map(|meal| line(&meal)), ["nothing", "soup:2", "menu:courses=1.0+2.5,wine=red"]);
        assert_eq!(parse("soup:7", "meal", &known()), Ok(Meal::Soup(Soup { spoons: 7 })));
        let menu = Meal::Menu { courses: vec![4.0], wine: "red".to_owned() };
        assert_eq!(parse("menu:courses=4", "meal", &known()), Ok(menu));
    }

    #[test]
    fn what_is_not_known_is_answered_with_what_is() {
        let error = |text: &str| parse(text, "meal", &known()).expect_err("refused");
        assert_eq!(error("soop"), "`soop` is no meal; hint: nothing, soup, menu");
        assert_eq!(error("menu:beer=1"), "`menu:beer=1`: menu has no option `beer`; hint: courses, wine");
        assert_eq!(error("nothing:1"), "`nothing:1`: `1` is no option=value");
        assert_eq!(error("nothing:a=1"), "`nothing:a=1`: nothing has no option `a`; hint: it has none");
        assert!(error("soup:cold").starts_with("`soup:cold`: invalid type: string"), "{}", error("soup:cold"));
    }
}
