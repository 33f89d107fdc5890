//! The parser of choices on a corpus and against the benchmarks' own scripts; WUPS against NLTK.

use std::path::Path;

use serde_json::Value;
use vidense::eval::dataset::ChoiceOptions;
use vidense::eval::metrics::{WordNet, parse_choice, wups, wups_words};

use crate::harness::{json as read_json, repository};

/// The answers of the corpus, with the options that each chooses from and the right label.
fn corpus() -> Vec<(String, ChoiceOptions, Option<char>)> {
    let text = std::fs::read_to_string(repository("tests/golden/eval/choice_answers.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts = |value: &Value| value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect();
    let options = |name: &Value| {
        let set = lines.iter().find(|line| line["set"] == *name).unwrap();
        let labels: Vec<String> = texts(&set["labels"]);
        let labels = labels.iter().map(|label| label.chars().next().unwrap()).collect();
        ChoiceOptions::with_labels(labels, texts(&set["texts"]), "")
    };
    let answers = lines.iter().filter(|line| line.get("answer").is_some());
    let label = |line: &Value| line["label"].as_str().and_then(|label| label.chars().next());
    answers.map(|line| (line["answer"].as_str().unwrap().to_owned(), options(&line["options"]), label(line))).collect()
}

/// Returns the label of the option that an answer chooses.
fn parsed(answer: &str, options: &ChoiceOptions) -> Option<char> {
    parse_choice(answer, options).and_then(|index| options.label(index))
}

#[test]
fn choices_of_the_corpus_are_parsed_and_none_is_guessed() {
    let corpus = corpus();
    assert!(corpus.len() >= 650);
    let wrong: Vec<String> = corpus
        .iter()
        .filter(|(answer, options, label)| parsed(answer, options) != *label)
        .map(|(answer, options, label)| format!("{answer:?}: {:?}, not {label:?}", parsed(answer, options)))
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), corpus.len(), wrong.join("\n"));
}

/// Number of realistic answers of the corpus; adversarial ones follow.
const N_REALISTIC: usize = 249;

/// Outcomes of a script on the corpus, against the parser: answers that it parses alike, that it draws at random, that
/// it gives a label although the parser gives none, that it does not parse, and that it gives another label.
#[derive(Debug, Default, PartialEq)]
struct ScriptOutcomes {
    agree: usize,
    random: usize,
    guessed: usize,
    missed: usize,
    wrong: usize,
}

#[test]
fn the_original_scripts_differ_from_the_parser_in_known_ways() {
    let corpus = corpus();
    let scripts = read_json(&repository("tests/golden/eval/choice_scripts.json"));
    let outcomes = |name: &str| {
        let mut found = ScriptOutcomes::default();
        let results = scripts[name].as_array().unwrap();
        // The scripts were run on the realistic answers, with which the corpus begins.
        assert_eq!(results.len(), N_REALISTIC);
        for ((answer, options, _), result) in corpus.iter().zip(results) {
            let label = &parsed(answer, options);
            let given = result.as_str().filter(|given| given.len() == 1).and_then(|given| given.chars().next());
            match (result.as_str(), given, label) {
                (Some("not run"), _, _) => {}
                (Some("random"), _, _) => found.random += 1,
                (_, given, label) if given == *label => found.agree += 1,
                (_, Some(_), None) => found.guessed += 1,
                (_, None, _) => found.missed += 1,
                (_, Some(_), Some(_)) => found.wrong += 1,
            }
        }
        found
    };
    let of = |agree, random, guessed, missed, wrong| ScriptOutcomes { agree, random, guessed, missed, wrong };
    // Quirks: any capital letter of the text counts (extract_mcq_answer's fallback, Video-MME, LongVideoBench), so `A
    // man` is A; options named by their text are missed; NExT-QA, EgoSchema and LongVideoBench draw an option for an
    // answer that they do not parse; SlowFast-LLaVA takes the first character of any word and crashes on an empty
    // answer; VideoChat2 finds its first word within the option's label; MLVU takes the character before the first `)`.
    for (name, expected) in [
        ("lmms_eval.extract_mcq_answer", of(147, 0, 34, 38, 8)),
        ("lmms_eval.nextqa", of(96, 98, 26, 0, 7)),
        ("lmms_eval.egoschema", of(97, 98, 26, 0, 6)),
        ("lmms_eval.longvideobench", of(105, 73, 35, 0, 14)),
        ("lmms_eval.mvbench", of(153, 0, 30, 37, 7)),
        ("lmms_eval.perceptiontest", of(146, 0, 26, 50, 5)),
        ("slowfast_llava", of(115, 0, 29, 73, 10)),
        ("video_mme", of(136, 0, 33, 45, 13)),
        ("videochat2.mvbench", of(111, 0, 17, 97, 2)),
        ("mlvu", of(109, 0, 1, 115, 2)),
    ] {
        assert_eq!(outcomes(name), expected, "{name}");
    }
}

#[test]
fn wups_equals_the_reference_on_500_pairs() {
    let wordnet = WordNet::open(&repository("tests/golden/eval/wordnet")).unwrap();
    let pairs = read_json(&repository("tests/golden/eval/wups.json"));
    let pairs = pairs.as_array().unwrap();
    assert_eq!(pairs.len(), 500);
    let words = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    for pair in pairs {
        let (a, b) = (words(&pair["a"]), words(&pair["b"]));
        for (name, threshold) in [("wups_0", 0.0), ("wups_0.9", 0.9)] {
            let (found, expected) = (wups(&a, &b, threshold, &wordnet), pair[name].as_f64().unwrap());
            assert!((found - expected).abs() < 1e-12, "{name} of {a:?} and {b:?}: {found}, not {expected}");
        }
    }
    let error = WordNet::open(Path::new("no/such/dict")).unwrap_err().to_string();
    assert!(error.contains("no/such/dict/index.noun"), "{error}");
}

/// The script's rules (pywsd's `lemmatize_sentence` with NLTK 3.10 and TextBlob's tagger, WordNet 3.0) gave the words and
/// scores. Answers whose lemmas depend on the tagger are not among them.
#[test]
fn wups_of_whole_answers_equals_the_script() {
    let wordnet = WordNet::open(&repository("tests/golden/eval/wordnet")).unwrap();
    let answers = read_json(&repository("tests/golden/eval/wups_answers.json"));
    let answers = answers.as_array().unwrap();
    assert!(answers.len() >= 30);
    for pair in answers {
        let text = |key: &str| pair[key].as_str().unwrap();
        let words = |key: &str| wups_words(text(key), &wordnet);
        let (answer, reference) = (words("answer"), words("reference"));
        for (name, threshold) in [("wups_0", 0.0), ("wups_0.9", 0.9)] {
            let (found, expected) = (wups(&answer, &reference, threshold, &wordnet), pair[name].as_f64().unwrap());
            assert!((found - expected).abs() < 1e-12, "{name} of {pair}: {found}, by {answer:?} and {reference:?}");
        }
    }
    // WordNet has nouns `wa`, `ha` and `doe`, and the script's stem of `his` is `hi`.
    assert_eq!(wups_words("He was running, has toys, does his work.", &wordnet), ["run", "toy", "hi", "work"]);
}
