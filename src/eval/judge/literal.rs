//! Dictionaries in a judge's reply: a literal of Python or an object of JSON, with text around it.
//!
//! A dictionary has texts as keys, and texts, numbers and the constants of both languages as values: a subset of what
//! Python's `ast.literal_eval` reads, and of JSON. A dictionary within another one is not a verdict of its own: the
//! scripts take the keys of the outer one. Called by `verdict`.

use std::iter::Peekable;
use std::str::Chars;

/// Value of a dictionary.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum LiteralValue {
    /// A text between single or double quotes.
    Text(String),
    /// A number.
    Number(f64),
    /// `True`, `False`, `None`, or those of JSON.
    Constant,
}

/// Entries of a dictionary in their order.
pub(super) type LiteralDict = Vec<(String, LiteralValue)>;

/// Returns the dictionaries of a text from left to right; `None` if one of them has another one in it.
pub(super) fn find_dicts(text: &str) -> Option<Vec<LiteralDict>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let mut parser = LiteralParser { rest: rest[at..].chars().peekable(), has_key: false };
        match parser.dict() {
            Some(dict) => {
                found.push(dict);
                let left: usize = parser.rest.map(char::len_utf8).sum();
                rest = &rest[rest.len() - left..];
            }
            None => {
                rest = &rest[at + 1..];
                let is_nested = rest.find(['{', '}']).is_some_and(|brace| rest[brace..].starts_with('{'));
                if parser.has_key && is_nested {
                    return None;
                }
            }
        }
    }
    Some(found)
}

struct LiteralParser<'t> {
    rest: Peekable<Chars<'t>>,
    /// Whether a key was read: the brace begins a dictionary, even if the rest is not understood.
    has_key: bool,
}

impl LiteralParser<'_> {
    fn dict(&mut self) -> Option<LiteralDict> {
        let mut entries = LiteralDict::new();
        self.expect('{')?;
        loop {
            self.skip_space();
            if self.rest.next_if_eq(&'}').is_some() {
                return Some(entries);
            }
            if !entries.is_empty() {
                self.expect(',')?;
                self.skip_space();
                // Python allows a comma at the end.
                if self.rest.next_if_eq(&'}').is_some() {
                    return Some(entries);
                }
            }
            let key = self.text()?;
            self.skip_space();
            self.expect(':')?;
            self.has_key = true;
            self.skip_space();
            entries.push((key, self.value()?));
        }
    }

    fn value(&mut self) -> Option<LiteralValue> {
        match self.rest.peek()? {
            '\'' | '"' => self.text().map(LiteralValue::Text),
            'A'..='Z' | 'a'..='z' => {
                let word = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
                let constants = ["True", "False", "None", "true", "false", "null"];
                constants.contains(&word.as_str()).then_some(LiteralValue::Constant)
            }
            _ => self.number().map(LiteralValue::Number),
        }
    }

    fn number(&mut self) -> Option<f64> {
        let sign = self.rest.next_if(|c| matches!(c, '+' | '-'));
        let digits = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '_'));
        // Python refuses leading zeros, and so does JSON; hexadecimal digits and separators are left to neither.
        let whole = digits.split(['.', 'e', 'E']).next().unwrap_or_default();
        let is_integer = digits.bytes().all(|byte| byte.is_ascii_digit());
        let is_plain = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
        if !is_plain || (is_integer && whole.len() > 1 && whole.starts_with('0')) {
            return None;
        }
        let value: f64 = digits.parse().ok().filter(|value: &f64| value.is_finite())?;
        Some(if sign == Some('-') { -value } else { value })
    }

    fn text(&mut self) -> Option<String> {
        let quote = self.rest.next_if(|c| matches!(c, '\'' | '"'))?;
        let mut text = String::new();
        loop {
            match self.rest.next()? {
                c if c == quote => return Some(text),
                '\n' | '\r' => return None,
                '\\' => text.push(self.escaped()?),
                c => text.push(c),
            }
        }
    }

    /// Reads what follows a backslash, as far as Python and JSON agree.
    fn escaped(&mut self) -> Option<char> {
        Some(match self.rest.next()? {
            c @ ('\\' | '\'' | '"' | '/') => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'u' => {
                let digits: String = (0..4).map_while(|_| self.rest.next_if(char::is_ascii_hexdigit)).collect();
                let code = Some(digits).filter(|digits| digits.len() == 4)?;
                // Halves of a surrogate pair: the text matters to no verdict.
                char::from_u32(u32::from_str_radix(&code, 16).ok()?).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return None,
        })
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> String {
        std::iter::from_fn(|| self.rest.next_if(|&c| belongs(c))).collect()
    }

    fn skip_space(&mut self) {
        while self.rest.next_if(|c| matches!(c, ' ' | '\t' | '\n' | '\r')).is_some() {}
    }

    fn expect(&mut self, c: char) -> Option<char> {
        self.rest.next_if_eq(&c)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn objects_of_json_are_found_in_any_text(
            key in "[a-z]{1,8}", text in "[ -~\\n\u{e9}]{0,20}", number in -1e6..1e6, before in "[^{]{0,20}",
            noise in "[{}'\":,. a0-]{0,60}",
        ) {
            let json = serde_json::json!({ key.clone(): text, "n": number });
            let expected = vec![(key, LiteralValue::Text(text)), ("n".to_owned(), LiteralValue::Number(number))];
            prop_assume!(expected[0].0 != "n");
            prop_assert_eq!(find_dicts(&format!("{before}{json}")), Some(vec![expected]));
            // Any text ends.
            find_dicts(&noise);
        }
    }

    fn numbers(text: &str) -> Vec<Vec<(String, f64)>> {
        let number = |(key, value): (String, LiteralValue)| match value {
            LiteralValue::Number(value) => Some((key, value)),
            _ => None,
        };
        find_dicts(text).into_iter().flatten().map(|dict| dict.into_iter().filter_map(number).collect()).collect()
    }

    #[test]
    fn dictionaries_are_found_between_other_text() {
        let a = |value: f64| vec![("a".to_owned(), value)];
        assert_eq!(numbers("x {'a': 1} y ```json\n{\"a\": -2.5,\n}\n```"), [a(1.0), a(-2.5)]);
        assert_eq!(numbers("{ {'a': 4e0} } {'a'} {'a': b} {''a': 1} {1: 2}"), [a(4.0)]);
        assert_eq!(numbers("{'a': .5} {'a': 5.} {\"a\": 0}"), [a(0.5), a(5.0), a(0.0)]);
        assert!(numbers("{'a': 05} {'a': 1_0} {'a': 0x5} {'a': 1e999} {'a': - 1} {'a': 1-2} {'a': 1").is_empty());
    }

    #[test]
    fn a_dictionary_with_another_one_in_it_is_not_understood() {
        for text in [
            r#"{"a": {"b": 1}}"#,
            "{'a': [{'b': 1}]}",
            "{'a': f({'b': 1})}",
            "{'a': 1, {'b': 1}",
            "{'b': 1} {'a': x, 'c': {'b': 1}}",
        ] {
            assert_eq!(find_dicts(text), None, "{text}");
        }
        assert_eq!(find_dicts("{'a': x} {not {'b': 1}").map(|found| found.len()), Some(1));
        assert_eq!(find_dicts(&"{'a':".repeat(100_000)), None);
    }

    #[test]
    fn texts_have_escapes_and_no_line_breaks() {
        let text = |text: &str| find_dicts(text)?.first().map(|dict| dict[0].clone());
        let of = |key: &str, value: &str| Some((key.to_owned(), LiteralValue::Text(value.to_owned())));
        assert_eq!(text(r#"{'it\'s': "a\u00e9\n{"}"#), of("it's", "a\u{e9}\n{"));
        assert_eq!(text(r#"{"a": "\ud83d\ude00"}"#), of("a", "\u{fffd}\u{fffd}"));
        assert_eq!(text("{\"a\": None}"), Some(("a".to_owned(), LiteralValue::Constant)));
        assert_eq!((text("{'a\nb': 'c'}"), text(r"{'a': '\x'}"), text(r"{'a': '\u12'}")), (None, None, None));
    }
}
