//! One function for each kind of file that vidense reads from outside: it takes the file's bytes and must return,
//! whatever they are, whether the file was understood. `fuzz_targets/` hands them to libFuzzer, `tests/it/fuzz.rs` to
//! mutations of `seeds/`.

use std::fs;

use tempfile::TempDir;
use vidense::batch::store::StoredResults;
use vidense::batch::{Archive, ArchiveOptions, ManifestFormat};
use vidense::serve::api::ChatCall;
use vidense::spec::Plan;
use vidense::text::{PartPosition, PromptConvention, Tokenizer};
use vidense::weights::Checkpoint;
use vidense::{batch, eval, spec};

/// Entries of a file that are read at most.
const MAX_ENTRIES: usize = 1000;

/// Directory with the bytes in a file of that name.
fn directory(name: &str, bytes: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory for the input");
    fs::write(dir.path().join(name), bytes).expect("room for the input");
    dir
}

/// A pipeline in YAML.
pub fn pipeline(bytes: &[u8]) -> bool {
    let dir = directory("pipeline.yaml", bytes);
    let Ok((plan, _)) = spec::read_plan(&dir.path().join("pipeline.yaml"), &[]) else { return false };
    // A plan prints as a pipeline that gives the same plan.
    let text = plan.to_yaml().expect("a plan prints");
    fs::write(dir.path().join("again.yaml"), text).expect("room for the plan");
    let (again, _) = spec::read_plan(&dir.path().join("again.yaml"), &[]).expect("a printed plan is read");
    assert_eq!(plan, again);
    true
}

/// A manifest of an archive, in each of its formats.
pub fn manifest(bytes: &[u8]) -> bool {
    let formats = [ManifestFormat::Csv, ManifestFormat::Jsonl, ManifestFormat::Json, ManifestFormat::Lines];
    let dir = directory("manifest.txt", bytes);
    let entries = |format| {
        let options = ArchiveOptions { format, ..ArchiveOptions::default() };
        let entries = Archive::open(&dir.path().join("manifest.txt"), &options).and_then(|archive| archive.list());
        entries.map_or(0, |entries| entries.take(MAX_ENTRIES).count())
    };
    [None].into_iter().chain(formats.map(Some)).map(entries).sum::<usize>() > 0
}

/// A file of questions, in each of its formats, for `batch` and for `eval`.
pub fn questions(bytes: &[u8]) -> bool {
    let is_read = |ending| {
        let name = format!("questions.{ending}");
        let dir = directory(&name, bytes);
        let path = dir.path().join(&name);
        [batch::read_questions(&path).is_ok(), eval::read_questions(&path).is_ok()]
    };
    ["yaml", "json", "jsonl", "csv", "tsv"].map(is_read).as_flattened().contains(&true)
}

/// The answers of a batch.
pub fn results(bytes: &[u8]) -> bool {
    let dir = directory("answers.jsonl", bytes);
    let Ok(results) = StoredResults::open(dir.path()) else { return false };
    let mut n = 0;
    let read = results.for_each(&mut |record| {
        n += usize::from(record.failure().is_none());
        Ok(())
    });
    let _ = results.timings();
    read.is_ok() && n > 0
}

/// A `tokenizer.json`; also a `tokenizer.model`, if the bytes begin otherwise.
pub fn tokenizer(bytes: &[u8]) -> bool {
    let name = if bytes.first() == Some(&b'{') { "tokenizer.json" } else { "tokenizer.model" };
    let dir = directory(name, bytes);
    let Ok(tokenizer) = Tokenizer::open(dir.path(), PromptConvention::Llava) else { return false };
    let Ok(ids) = tokenizer.encode("What colour is the circle? \u{1f534}", PartPosition::First) else { return false };
    let _ = tokenizer.n_certain(&ids);
    !tokenizer.decode(&ids).is_empty()
}

/// A file of weights in safetensors.
pub fn safetensors(bytes: &[u8]) -> bool {
    let dir = directory("model.safetensors", bytes);
    read_weights(Checkpoint::open(dir.path()).ok())
}

/// A file of weights in GGUF.
pub fn gguf(bytes: &[u8]) -> bool {
    let dir = directory("model.gguf", bytes);
    read_weights(Checkpoint::open_gguf(&dir.path().join("model.gguf")).ok())
}

/// The body of a chat completion.
pub fn chat(bytes: &[u8]) -> bool {
    match ChatCall::parse(bytes, &Plan::default()) {
        Ok(call) => {
            assert!(!call.turns.is_empty());
            true
        }
        Err(error) => {
            // A message never repeats a long value of the client's, such as a video.
            assert!(error.message.len() < 1000, "{} bytes of message", error.message.len());
            false
        }
    }
}

/// Reads all tensors of a checkpoint that opens.
fn read_weights(checkpoint: Option<Checkpoint>) -> bool {
    let Some(checkpoint) = checkpoint else { return false };
    let names: Vec<String> = checkpoint.names().take(MAX_ENTRIES).map(str::to_owned).collect();
    names.iter().filter(|name| checkpoint.load_stored(name).is_ok()).count() > 0
}
