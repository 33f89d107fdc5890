//! Streaming: whole characters, no part of a stop string, and the pieces join to the answer.

use proptest::prelude::*;
use vidense::text::{PartPosition, PromptConvention, TextStream, Tokenizer};

use crate::harness::repository;

fn tokenizer() -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(repository("tests/golden/sentencepiece/a.model"), dir.path().join("tokenizer.model")).unwrap();
    Tokenizer::open(dir.path(), PromptConvention::Llava).unwrap()
}

/// The pieces that come out while the ids of `text` go in, the last one after them.
fn stream(text: &str, stops: &[&str]) -> (Vec<String>, String, bool) {
    let tokenizer = tokenizer();
    let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
    let mut stream = TextStream::new(&tokenizer, stops.clone().into());
    let mut pieces = Vec::new();
    for id in tokenizer.encode(text, PartPosition::Later).unwrap() {
        pieces.push(stream.push(id));
        if stream.is_stopped() {
            break;
        }
    }
    pieces.push(stream.finish());
    (pieces, stream.answer().to_owned(), stream.is_stopped())
}

#[test]
fn a_character_of_several_tokens_comes_whole() {
    let text = "né 日本語 🦀 e\u{301}";
    let (pieces, answer, stopped) = stream(text, &[]);
    assert_eq!((answer.as_str(), pieces.concat().as_str(), stopped), (text, text, false));
    assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)));
    assert!(pieces.iter().filter(|piece| !piece.is_empty()).count() > 5, "it was not streamed: {pieces:?}");
}

#[test]
fn nothing_of_a_stop_string_comes_out() {
    let (pieces, answer, stopped) = stream("the answer ###END and more", &["###END"]);
    assert_eq!((answer.as_str(), pieces.concat().as_str(), stopped), ("the answer", "the answer", true));
    // What only begins like one comes out after all.
    let (pieces, answer, stopped) = stream("a ##", &["###END"]);
    assert_eq!((answer.as_str(), pieces.concat().as_str(), stopped), ("a ##", "a ##", false));
}

#[test]
fn bytes_that_never_become_a_character_are_replaced_at_the_end() {
    let tokenizer = tokenizer();
    let mut stream = TextStream::new(&tokenizer, [].into());
    // The first two bytes of a three-byte character.
    let bytes = ["<0xE3>", "<0x81>"].map(|piece| tokenizer.token_id(piece).unwrap());
    assert_eq!(bytes.map(|id| stream.push(id)), ["", ""]);
    assert_eq!(stream.finish(), "\u{FFFD}\u{FFFD}");
}

proptest! {
    #[test]
    fn the_pieces_are_the_answer(text in "[ a-d\n.é日🦀]{0,30}") {
        let (pieces, answer, _) = stream(&text, &["dd."]);
        prop_assert_eq!(pieces.concat(), answer.clone());
        let end = text.find("dd.").unwrap_or(text.len());
        prop_assert_eq!(answer, text[..end].trim());
    }
}
