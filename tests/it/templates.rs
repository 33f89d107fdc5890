//! Template of a question: the checkpoint's own, a built-in one, and the messages about the choice.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::repository;

const LLAVA: &str = "{% for m in messages %}{{ m.role.upper() }}: \
    {% for c in m.content %}{% if c.type == 'image' %}<image>\n\
    {% else %}{{ c.text }} {% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}";

fn vidense(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
    command.current_dir(repository("")).env("HF_HUB_OFFLINE", "1").env("HF_HOME", "/nonexistent");
    command.env_remove("VIDENSE_MODELS").args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// A copy of a small checkpoint, with these files beside it.
fn checkpoint(layout: &str, files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let from = repository("tests/golden/checkpoints").join(layout);
    for entry in walkdir::WalkDir::new(&from).min_depth(1) {
        let entry = entry.unwrap();
        let to = dir.path().join(entry.path().strip_prefix(&from).unwrap());
        if entry.file_type().is_dir() {
            std::fs::create_dir(to).unwrap();
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn ask(dir: &Path, flags: &[&str]) -> Output {
    let model = dir.to_str().unwrap();
    let all = ["ask", "tests/golden/checkpoints/frames", "Why?", "--model", model, "--json", "--max-new-tokens", "4"];
    vidense(&[&all[..], &["--temporal", "temporal_mean", "--device", "cpu"], flags].concat())
}

/// Tokens of the prompt's text.
fn n_text(output: &Output) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout);
    let answer: Value =
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    answer["prompt_tokens"].as_u64().unwrap()
}

fn assert_refused(output: &Output, message: &str) {
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains(message) && !words.contains("panicked"), "{words}");
}

fn inspected(dir: &Path) -> String {
    String::from_utf8(vidense(&["inspect", dir.to_str().unwrap()]).stdout).unwrap()
}

#[test]
fn a_hugging_face_checkpoint_is_asked_in_its_own_words() {
    let own = checkpoint("hf-5", &[("chat_template.jinja", LLAVA)]);
    let bare = checkpoint("hf-5", &[]);
    assert!(inspected(own.path()).contains("template    checkpoint (chat_template.jinja)\n"));
    assert!(inspected(bare.path()).contains("template    llava_hf\n"));
    // `USER: <image>\nWhy? ASSISTANT:` both times.
    let documented = n_text(&ask(bare.path(), &[]));
    assert_eq!(n_text(&ask(own.path(), &[])), documented);
    assert_eq!(n_text(&ask(own.path(), &["--template", "checkpoint"])), documented);
    assert!(n_text(&ask(own.path(), &["--template", "vicuna_v1"])) > documented + 20, "a system text");
    assert_refused(
        &ask(own.path(), &["--template", "chekpoint"]),
        "unknown template `chekpoint`; hint: did you mean `checkpoint`? known: vicuna_v1",
    );
}

#[test]
fn a_llava_checkpoint_keeps_its_conversation_until_it_is_asked_for_another() {
    let own = checkpoint(
        "llava-bin",
        &[("tokenizer_config.json", &format!("{{\"chat_template\": {}}}", Value::from(LLAVA)))],
    );
    let bare = checkpoint("llava-bin", &[]);
    assert!(inspected(own.path()).contains("template    vicuna_v1\n"));
    assert_eq!(n_text(&ask(own.path(), &[])), n_text(&ask(bare.path(), &[])));
    assert!(n_text(&ask(own.path(), &["--template", "checkpoint"])) + 20 < n_text(&ask(bare.path(), &[])));
    let refused = "template `checkpoint`: the checkpoint has no chat template; hint: vicuna_v1";
    assert_refused(&ask(bare.path(), &["--template", "checkpoint"]), refused);
}

#[test]
fn a_template_that_cannot_be_used_is_refused_and_passed_over_by_name() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let cases = [
        ("{% for %}", "chat_template.jinja: chat template: syntax error"),
        (endless, "chat_template.jinja: chat template: it does not end"),
        ("{{ messages[0].role }}", "has `<image>` 0 times in its prompt; hint: --template with one of vicuna_v1"),
    ];
    for (source, message) in cases {
        let dir = checkpoint("hf-5", &[("chat_template.jinja", source)]);
        assert_refused(&ask(dir.path(), &[]), message);
        assert!(ask(dir.path(), &["--template", "llava_hf"]).status.success());
    }
}

#[test]
fn a_template_of_texts_gets_the_placeholder_before_the_question() {
    let dir = checkpoint("hf-5", &[("chat_template.jinja", "USER: {{ messages[0].content + ' ASSISTANT:' }}")]);
    let bare = checkpoint("hf-5", &[]);
    assert_eq!(n_text(&ask(dir.path(), &[])), n_text(&ask(bare.path(), &[])));
    assert_refused(&ask(dir.path(), &["--system", "Be brief."]), "has `<image>` 0 times in its prompt");
}
