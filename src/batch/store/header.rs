//! Header: the first line of results, with the plan, the model and the program that made them. Answers with another
//! header are refused.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::batch::item::Shard;
use crate::pipeline::open::REVISION;
use crate::spec::{ModelFile, Plan};

/// Format of the lines.
pub const FORMAT: &str = "vidense-answers-1";

/// Revision of headers without one.
fn first_revision() -> u32 {
    1
}

/// Plan, model and program of answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Format of the lines, [`FORMAT`].
    pub format: String,
    /// Version of the program.
    pub version: String,
    /// Revision of the frames and prompts of a plan.
    #[serde(default = "first_revision")]
    pub revision: u32,
    /// Fingerprint of the plan over the model's files.
    pub plan: String,
    /// Dtype and device of the computation, such as `f32 on cpu`.
    pub arithmetic: String,
    /// Model, as the plan names it.
    pub model: String,
    /// Plan, without `exec`: every choice that an answer depends on.
    pub choices: Value,
    /// Files of the model with the hashes of their contents.
    pub model_files: Vec<ModelFile>,
    /// Shards of the archive; empty for the whole archive.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub shards: Vec<String>,
}

impl Header {
    /// Creates the header of a plan's answers about the whole archive.
    ///
    /// # Errors
    /// When the plan is not resolved.
    pub fn new(
        plan: &Plan,
        fingerprint: &str,
        arithmetic: String,
        model_files: &[ModelFile],
    ) -> Result<Self, serde_json::Error> {
        let mut choices = serde_json::to_value(plan)?;
        if let Some(map) = choices.as_object_mut() {
            // The execution options do not change answers.
            map.shift_remove("exec");
        }
        Ok(Self {
            format: FORMAT.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: REVISION,
            plan: fingerprint.to_owned(),
            arithmetic,
            model: plan.model.clone(),
            choices,
            model_files: model_files.to_vec(),
            shards: Vec::new(),
        })
    }

    /// Sets the shard of the archive.
    #[must_use]
    pub fn with_shard(self, shard: Shard) -> Self {
        Self { shards: if shard.is_whole() { Vec::new() } else { vec![shard.to_string()] }, ..self }
    }

    /// Describes the differences to other answers that must not be mixed with these; empty if they may.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.format != other.format {
            found.push(format!("the format of the lines is {} there, {} here", self.format, other.format));
        }
        if self.revision != other.revision {
            found.push(format!("frames and prompts are of revision {} there, {} here", self.revision, other.revision));
        }
        if self.arithmetic != other.arithmetic {
            found.push(format!("computed as {} there, {} here", self.arithmetic, other.arithmetic));
        }
        if self.plan != other.plan {
            compare(&self.choices, &other.choices, &mut Vec::new(), &mut found);
            self.compare_files(other, &mut found);
            if found.is_empty() {
                found.push(format!("the fingerprint is {} there, {} here", self.plan, other.plan));
            }
        }
        found
    }

    /// Describes the differences to answers that resume the same directory: [`Self::differences`] and the shard.
    pub(crate) fn differences_in_place(&self, other: &Self) -> Vec<String> {
        let mut found = self.differences(other);
        if self.shards != other.shards {
            let describe = |header: &Self| match header.shards.as_slice() {
                [] => "all of the archive".to_owned(),
                shards => format!("shard {}", shards.join(", ")),
            };
            found.push(format!("{} there, {} here", describe(self), describe(other)));
        }
        found
    }

    fn compare_files(&self, other: &Self, found: &mut Vec<String>) {
        let (theirs, ours) = (&self.model_files, &other.model_files);
        for (there, here) in theirs.iter().zip(ours).filter(|(there, here)| there != here) {
            let describe = |file: &ModelFile| format!("{} ({} bytes, {})", file.name, file.bytes, file.blake3);
            found.push(format!("the model's file {} there, {} here", describe(there), describe(here)));
        }
        if theirs.len() != ours.len() {
            found.push(format!("the model has {} files there, {} here", theirs.len(), ours.len()));
        }
    }
}

/// Describes every key in which two plans differ, except for the paths of the model.
fn compare(there: &Value, here: &Value, path: &mut Vec<String>, found: &mut Vec<String>) {
    if there == here || matches!(path.first().map(String::as_str), Some("model" | "vision_tower")) {
        return;
    }
    let (Some(a), Some(b)) = (there.as_object(), here.as_object()) else {
        found.push(format!("{}: {there} there, {here} here", path.join(".")));
        return;
    };
    let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
    for key in keys {
        path.push(key.clone());
        compare(a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), path, found);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(plan: &Plan, fingerprint: &str, hash: &str) -> Header {
        let file = ModelFile { name: "model.safetensors".into(), bytes: 7, blake3: hash.into() };
        Header::new(plan, fingerprint, "f32 on cpu".to_owned(), &[file]).expect("texts")
    }

    #[test]
    fn differences_are_described_key_by_key() {
        let plan = Plan { temporal: Some("max_pool:2".parse().expect("a strategy")), ..Plan::default() };
        let mut other = Plan { temporal: Some("max_pool:4".parse().expect("a strategy")), ..plan.clone() };
        other.generate.max_new_tokens = 9;
        other.exec.decode_threads = 7;
        other.exec.preprocess_threads = Some(3);
        other.model = "elsewhere".to_owned();
        let (there, here) = (header(&plan, "1", "a"), header(&other, "2", "b"));
        assert_eq!(there.differences(&there), [""; 0]);
        assert_eq!(
            there.differences(&here),
            [
                "temporal.max_pool.stride: 2 there, 4 here",
                "generate.max_new_tokens: 512 there, 9 here",
                "the model's file model.safetensors (7 bytes, a) there, model.safetensors (7 bytes, b) here"
            ]
        );
        let halved = Header { arithmetic: "bf16 on cuda".to_owned(), ..there.clone() };
        assert_eq!(there.differences(&halved), ["computed as f32 on cpu there, bf16 on cuda here"]);
        let older = Header { revision: 1, ..there.clone() };
        let difference = format!("frames and prompts are of revision 1 there, {REVISION} here");
        assert_eq!(older.differences(&there), [difference]);
        let mut written = serde_json::to_value(&there).expect("texts");
        written.as_object_mut().expect("a map").remove("revision");
        assert_eq!(serde_json::from_value::<Header>(written).expect("an older header"), older);
        let shard = Header { shards: vec!["1/3".to_owned()], ..there.clone() };
        assert_eq!(there.differences_in_place(&shard), ["all of the archive there, shard 1/3 here"]);
    }
}
