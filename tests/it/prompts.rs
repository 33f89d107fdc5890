//! Prompts and answers equal transformers', id by id and character by character: `tests/golden/make_text.py`.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use vidense::text::{
    ChatTemplate, Conversation, PartPosition, Passage, Placeholder, Prompt, PromptConvention, Template, TextStream,
    Tokenizer,
};

use crate::harness::repository;

const TRANSFORMERS: PromptConvention = transformers(None);

const fn transformers(image_token_id: Option<u32>) -> PromptConvention {
    PromptConvention::HuggingFace { image_token_id, placeholder: Placeholder::Image }
}

fn golden(name: &str) -> Value {
    let path = repository("tests/golden/text").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn write(dir: &Path, name: &str, value: &Value) {
    std::fs::write(dir.join(name), value.to_string()).unwrap();
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn copy_model(dir: &Path) {
    std::fs::copy(repository("tests/golden/sentencepiece/a.model"), dir.join("tokenizer.model")).unwrap();
}

/// The directory of a case of `tokenizers.json`.
fn tokenizer_dir(case: &Value, bases: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    if !case["config"].is_null() {
        write(dir.path(), "tokenizer_config.json", &case["config"]);
    }
    for (name, value) in case.get("files").and_then(Value::as_object).into_iter().flatten() {
        write(dir.path(), name, value);
    }
    match case.get("base") {
        None => copy_model(dir.path()),
        Some(base) => {
            let mut file = bases[base.as_str().unwrap()].clone();
            for (key, value) in case["patch"].as_object().unwrap() {
                file[key] = value.clone();
            }
            write(dir.path(), "tokenizer.json", &file);
        }
    }
    dir
}

fn prompt(before: &str, after: &str) -> Prompt {
    Prompt::halves(before, after)
}

/// The ids on both sides of the visual tokens.
fn halves(tokenizer: &Tokenizer, prompt: &Prompt) -> (Vec<u32>, Vec<u32>) {
    match &tokenizer.encode_prompt(prompt).unwrap()[..] {
        [Passage::Text(before), Passage::Medium(_), Passage::Text(after)] => (before.clone(), after.clone()),
        parts => panic!("{parts:?}"),
    }
}

#[test]
fn prompts_of_every_tokenizer_have_the_ids_of_transformers() {
    let (cases, bases) = (golden("tokenizers.json"), golden("base.json"));
    for case in cases.as_array().unwrap() {
        let dir = tokenizer_dir(case, &bases);
        let tokenizer = Tokenizer::open(dir.path(), TRANSFORMERS).unwrap();
        for expected in case["prompts"].as_array().unwrap() {
            let (before, after) = (expected[0].as_str().unwrap(), expected[1].as_str().unwrap());
            let found = halves(&tokenizer, &prompt(before, after));
            assert_eq!(found, (ids(&expected[2]), ids(&expected[3])), "{}: {before:?} {after:?}", case["name"]);
        }
    }
}

#[test]
fn pieces_of_every_answer_are_what_transformers_decodes() {
    let (cases, bases) = (golden("tokenizers.json"), golden("base.json"));
    for case in cases.as_array().unwrap() {
        let dir = tokenizer_dir(case, &bases);
        let tokenizer = Tokenizer::open(dir.path(), TRANSFORMERS).unwrap();
        for expected in case["answers"].as_array().unwrap() {
            let mut stream = TextStream::new(&tokenizer, [].into());
            let mut text: String = ids(&expected[0]).into_iter().map(|id| stream.push(id)).collect();
            text += &stream.finish();
            assert_eq!(text, expected[1].as_str().unwrap(), "{}: {}", case["name"], expected[0]);
            assert_eq!(stream.answer(), text);
        }
    }
}

#[test]
fn a_slow_tokenizer_has_the_ids_of_its_settings() {
    for case in golden("slow.json").as_array().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        copy_model(dir.path());
        write(dir.path(), "tokenizer_config.json", &case["config"]);
        let tokenizer = Tokenizer::open(dir.path(), PromptConvention::Llava).unwrap();
        for expected in case["texts"].as_array().unwrap() {
            let text = expected[0].as_str().unwrap();
            let found = tokenizer.encode(text, PartPosition::First).unwrap();
            assert_eq!(found, ids(&expected[1]), "{}: {text:?}", case["config"]);
        }
    }
}

/// A directory with a tokenizer that reads prompts as one text, and files beside it.
fn with_files(files: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "tokenizer.json", &golden("base.json")["pieces"]);
    let config = json!({ "bos_token": "<s>", "eos_token": { "content": "</s>", "special": true } });
    write(dir.path(), "tokenizer_config.json", &config);
    for (name, value) in files {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn chat_template(dir: &Path) -> Option<Template> {
    let tokenizer = Tokenizer::open(dir, TRANSFORMERS).unwrap();
    ChatTemplate::find(dir, &tokenizer).map(|chat| Template::Checkpoint(Arc::new(chat)))
}

#[test]
fn chat_templates_make_the_prompts_of_transformers() {
    for case in golden("templates.json").as_array().unwrap() {
        let dir = with_files(&[("chat_template.jinja", case["template"].clone())]);
        let template = chat_template(dir.path()).unwrap();
        let chat = &case["chat"];
        let primed = chat["primed"].as_str().unwrap();
        let system = chat["system"].as_str().map(str::to_owned);
        let mut conversation = Conversation::new(template, system).with_wording("{question}", primed);
        let mut last = None;
        for turn in chat["turns"].as_array().unwrap() {
            last = Some(conversation.ask(turn[0].as_str().unwrap()).unwrap());
            if let Some(answer) = turn[1].as_str() {
                conversation.answer(answer.strip_prefix(primed).unwrap());
            }
        }
        let prompt = last.unwrap();
        let text = format!("{}<image>{}", prompt.before_visual(), prompt.after_visual());
        assert_eq!(text, case["text"].as_str().unwrap(), "{}: {chat}", case["name"]);
    }
}

#[test]
fn chat_templates_are_found_in_transformers_order() {
    let (jinja, legacy) = ("{{ 'a<image>Why?' }}", json!({ "chat_template": "b<image>Why?" }));
    let processor = json!({ "chat_template": "c<image>Why?" });
    let named = json!([{ "name": "rag", "template": "x" }, { "name": "default", "template": "d<image>Why?" }]);
    let config = json!({ "bos_token": "<s>", "chat_template": named });
    let other = ("additional_chat_templates/rag.jinja", json!("x"));
    let default = ("additional_chat_templates/default.jinja", json!("e<image>Why?"));
    let jinja = ("chat_template.jinja", json!(jinja));
    let legacy = ("chat_template.json", legacy);
    let processor = ("processor_config.json", processor);
    let config = ("tokenizer_config.json", config);
    let cases = [
        (vec![config.clone()], "d", "tokenizer_config.json: chat_template"),
        (vec![config.clone(), jinja.clone(), other.clone()], "a", "chat_template.jinja"),
        (vec![config.clone(), default.clone(), other.clone()], "e", "additional_chat_templates"),
        (vec![jinja.clone(), legacy.clone()], "b", "chat_template.json: chat_template"),
        (vec![jinja.clone(), legacy.clone(), processor], "c", "processor_config.json: chat_template"),
    ];
    for (files, before, origin) in cases {
        let dir = with_files(&files);
        let template = chat_template(dir.path()).unwrap();
        assert_eq!(template.origin(), Some(origin));
        assert_eq!(Conversation::new(template, None).ask("Why?").unwrap().before_visual(), before, "{origin}");
    }
    assert!(chat_template(with_files(&[]).path()).is_none());
    let refused = [
        (
            vec![legacy, other.clone()],
            "chat_template.json: chat_template: chat template: additional_chat_templates exists beside",
        ),
        (vec![other], "additional_chat_templates: chat template: none of the named templates is `default`: rag"),
        (vec![("chat_template.json", json!("{"))], "chat_template.json: chat template: not JSON"),
    ];
    for (files, expected) in refused {
        let dir = with_files(&files);
        let template = chat_template(dir.path()).unwrap();
        let error = Conversation::new(template, None).ask("Why?").unwrap_err().to_string();
        assert!(error.starts_with(expected) && error.contains("hint: --template with one of vicuna_v1"), "{error}");
    }
}

#[test]
fn templates_that_make_no_prompt_about_one_video_are_refused() {
    let cases = [
        ("{% for m in messages %}{{ m.role }}{% endfor %}", None, "has `<image>` 0 times in its prompt"),
        ("<image><image>{{ messages[0].role }}", None, "has `<image>` 2 times in its prompt"),
        ("<image>", None, "it leaves the question out"),
        ("<image>{{ messages[-1].content }}", Some("Be brief"), "it leaves the system text out"),
        ("{{ raise_exception('no ' ~ messages[0].role) }}", None, "it refuses the conversation: no user (line 1)"),
        ("{% for m in range(99999) %}{% for n in range(99999) %}{% endfor %}{% endfor %}", None, "it does not end"),
        ("{% for m in messages %}", None, "syntax error"),
    ];
    for (source, system, expected) in cases {
        let dir = with_files(&[("chat_template.jinja", json!(source))]);
        let template = chat_template(dir.path()).unwrap();
        let mut conversation = Conversation::new(template, system.map(str::to_owned));
        let error = conversation.ask("Why?").unwrap_err().to_string();
        assert!(error.starts_with("chat_template.jinja: chat template: "), "{error}");
        assert!(error.contains(expected), "{source}: {error}");
    }
}

#[test]
fn a_template_of_texts_gets_texts() {
    for (source, after) in [
        ("U: {{ messages[0].content }}", "\nWhy?"),
        ("U: {{ messages[0].content + '!' }}", "\nWhy?!"),
        ("U: {{ messages[0]['content'] | trim }}", "\nWhy?"),
        // This one writes the placeholder itself.
        ("U: <image>{{ messages[0].content }}", "Why?"),
    ] {
        let dir = with_files(&[("chat_template.jinja", json!(source))]);
        let template = chat_template(dir.path()).unwrap();
        let prompt = Conversation::new(template, None).ask("Why?").unwrap();
        assert_eq!((prompt.before_visual(), prompt.after_visual()), ("U: ", after), "{source}");
    }
}

#[test]
fn a_placeholder_in_a_question_moves_no_cut() {
    let dir = with_files(&[("chat_template.jinja", json!("U: {{ messages[-1].content }}"))]);
    let tokenizer = Tokenizer::open(dir.path(), TRANSFORMERS).unwrap();
    let template = chat_template(dir.path()).unwrap();
    let asked = Conversation::new(template, None).ask("Is <image> a word?").unwrap();
    assert_eq!((asked.before_visual(), asked.after_visual()), ("U: ", "\nIs <image> a word?"));
    // Where the tokenizer reads the whole prompt, a second placeholder is refused ...
    let error = tokenizer.encode_prompt(&asked).unwrap_err().to_string();
    assert!(error.starts_with("the prompt contains `<image>` beside the video's own"), "{error}");
    // ... and where the parts are encoded apart, it is text.
    let llava = Tokenizer::open(dir.path(), PromptConvention::Llava).unwrap();
    let (before, after) = halves(&llava, &asked);
    assert_eq!(before, llava.encode("U: ", PartPosition::First).unwrap());
    assert_eq!(after, llava.encode("\nIs <image> a word?", PartPosition::Later).unwrap());
}

#[test]
fn only_a_bos_that_the_tokenizer_adds_is_dropped_from_a_later_part() {
    let special = |name: &str| json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let tokens = json!({
        "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] }, "</s>": { "id": "</s>", "ids": [2], "tokens": ["</s>"] },
    });
    for (single, first, later) in [
        (json!([special("<s>"), text]), vec![1], vec![]),
        (json!([text, special("</s>")]), vec![2], vec![2]),
        (json!([special("<s>"), text, special("</s>")]), vec![1, 2], vec![2]),
        (json!([text]), vec![], vec![]),
    ] {
        let processor =
            json!({ "type": "TemplateProcessing", "single": single, "pair": [text], "special_tokens": tokens });
        let mut file = golden("base.json")["pieces"].clone();
        file["post_processor"] = processor;
        let dir = with_files(&[("tokenizer.json", file)]);
        let tokenizer = Tokenizer::open(dir.path(), PromptConvention::Llava).unwrap();
        assert_eq!(tokenizer.encode("", PartPosition::First).unwrap(), first);
        assert_eq!(tokenizer.encode("", PartPosition::Later).unwrap(), later);
        // An end in the text itself stays.
        assert_eq!(tokenizer.encode("</s>", PartPosition::Later).unwrap(), [&[2], &later[..]].concat());
    }
}

#[test]
fn an_image_token_of_another_id_is_refused() {
    let dir = with_files(&[]);
    let found = Tokenizer::open(dir.path(), TRANSFORMERS).unwrap().token_id("<image>").unwrap();
    assert!(Tokenizer::open(dir.path(), transformers(Some(found))).is_ok());
    let error = Tokenizer::open(dir.path(), transformers(Some(7))).unwrap_err().to_string();
    let expected = format!("image_token_index: 7 is not the id of `<image>` in the tokenizer, {found}; hint");
    assert!(error.contains(&expected), "{error}");
}

#[test]
fn a_tokenizer_without_an_image_token_encodes_both_sides_apart() {
    let dir = tempfile::tempdir().unwrap();
    copy_model(dir.path());
    let tokenizer = Tokenizer::open(dir.path(), TRANSFORMERS).unwrap();
    let (before, after) = halves(&tokenizer, &prompt("USER: ", "\nWhy?"));
    assert_eq!(before, tokenizer.encode("USER: ", PartPosition::First).unwrap());
    assert_eq!(after, tokenizer.encode("\nWhy?", PartPosition::Later).unwrap());
}

/// Ids of one tokenizer, many of them of bytes, some of special tokens.
fn random_ids(runner: &mut impl FnMut(usize) -> usize, special: &[u32], n: usize, vocabulary: usize) -> Vec<u32> {
    let id = |runner: &mut dyn FnMut(usize) -> usize| match runner(3) {
        0 => special[runner(special.len())],
        _ => u32::try_from(runner(vocabulary)).unwrap(),
    };
    (0..n).map(|_| id(runner)).collect()
}

#[test]
fn pieces_of_random_ids_join_to_the_decoded_answer() {
    let (cases, bases) = (golden("tokenizers.json"), golden("base.json"));
    // SplitMix64: the same draws every time.
    let mut state = 1_u64;
    let mut draw = move |below: usize| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % below as u64).unwrap()
    };
    let readings = [TRANSFORMERS, PromptConvention::Llava];
    for (case, reading) in cases.as_array().unwrap().iter().flat_map(|case| readings.map(|reading| (case, reading))) {
        let dir = tokenizer_dir(case, &bases);
        let tokenizer = Tokenizer::open(dir.path(), reading).unwrap();
        // Bytes of a character of three, a byte that begins none, line ends, and tokens that print nothing.
        let named = [
            "<0xE3>", "<0x81>", "<0x82>", "<0xFF>", "<0x0A>", "<0x20>", "ã", "ģ", "Ĥ", "Ġ", "▁", "<s>", "</s>",
            "<image>",
        ];
        let special: Vec<u32> = named.iter().filter_map(|token| tokenizer.token_id(token)).collect();
        for n in 0..60 {
            let ids = random_ids(&mut draw, &special, n, tokenizer.vocab_size());
            let mut stream = TextStream::new(&tokenizer, [].into());
            let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
            text += &stream.finish();
            let is_space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
            let whole = tokenizer.decode(&ids);
            assert_eq!(text, whole.trim_matches(is_space), "{} {reading:?}: {ids:?}", case["name"]);
        }
    }
}
