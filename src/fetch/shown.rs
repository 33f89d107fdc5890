//! URLs and words of other hosts as messages show them: without secrets, and without characters that act on a terminal.

use super::url::FetchUrl;

/// Maximum number of characters of a URL in a message.
const MAX_SHOWN: usize = 200;

/// Returns a URL as messages name it, valid or not: without credentials, query and fragment, in printable ASCII.
pub fn shown_url(url: &str) -> String {
    if let Ok(url) = FetchUrl::parse(url) {
        return url.shown();
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let separator = if scheme.is_empty() { "" } else { "://" };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // Where credentials contain a slash that was not encoded, no part is safe to be shown.
    if rest.contains('@') {
        return printable(&format!("{scheme}{separator}..."));
    }
    let host = authority.rsplit('@').next().unwrap_or_default();
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    printable(&format!("{scheme}{separator}{host}{path}"))
}

/// Returns a text of another host or library in printable ASCII, cut where it is long.
pub(super) fn printable(text: &str) -> String {
    let escaped = text.chars().take(MAX_SHOWN).flat_map(|c| {
        let is_plain = c.is_ascii_graphic() || c == ' ';
        is_plain.then_some(c).into_iter().chain(c.escape_default().filter(move |_| !is_plain))
    });
    let rest = if text.chars().nth(MAX_SHOWN).is_some() { "..." } else { "" };
    escaped.collect::<String>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_a_url_without_secrets_and_controls() {
        assert_eq!(shown_url("https://user:secret@a.org/b.mp4?token=secret#x"), "https://a.org/b.mp4");
        for url in ["https://user:se/cret@a.org/b.mp4", "https://user:se?cret@a.org/", "https://u@a:se#cret@a.org/"] {
            assert_eq!(shown_url(url), "https://...");
        }
        assert_eq!(shown_url("http://a/\u{1b}[31m\u{fc}\n"), "http://a/\\u{1b}[31m\\u{fc}\\n");
        assert_eq!(shown_url("no url?x"), "no url");
        assert_eq!(shown_url("https://a.org/@user/b.mp4?token=secret"), "https://a.org/@user/b.mp4");
        let long = shown_url(&format!("http://a/{}", "x".repeat(1000)));
        assert!(long.len() == MAX_SHOWN + 3 && long.ends_with("x..."));
    }
}
