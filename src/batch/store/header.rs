//! The first line of results: what made them. Others are not mixed with them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::batch::item::Shard;
use crate::pipeline::open::REVISION;
use crate::spec::{ModelFile, Plan};

/// The form of the lines; another one is another program's.
pub const FORMAT: &str = "vidense-answers-1";

/// The revision of headers that name none.
fn first_revision() -> u32 {
    1
}

/// What made the answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// Of this program.
    pub version: String,
    /// [`REVISION`].
    #[serde(default = "first_revision")]
    pub revision: u32,
    /// The fingerprint of the plan over the model's files.
    pub plan: String,
    /// How numbers were computed, such as `f32 on cpu`.
    pub arithmetic: String,
    /// The model, as the plan names it.
    pub model: String,
    /// The plan: every choice that an answer depends on.
    pub choices: Value,
    /// The model's files, by what is in them.
    pub model_files: Vec<ModelFile>,
    /// Which parts of an archive the answers are about, if not about all of it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub shards: Vec<String>,
}

impl Header {
    /// The header of a plan's answers.
    ///
    /// # Errors
    /// Never for a plan that was resolved: its keys are texts.
    pub fn new(
        plan: &Plan,
        (fingerprint, arithmetic): (&str, String),
        model_files: &[ModelFile],
        shard: Shard,
    ) -> Result<Self, serde_json::Error> {
        let mut choices = serde_json::to_value(plan)?;
        if let Some(map) = choices.as_object_mut() {
            // How the work is spread changes no answer.
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
            shards: if shard.is_whole() { Vec::new() } else { vec![shard.to_string()] },
        })
    }

    /// What keeps `other` answers from standing with these, in words; nothing if they may.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.format != other.format {
            found.push(format!("the form of the lines is {} there, {} here", self.format, other.format));
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

    /// As [`Self::differences`], of what is to go on in one directory: the shard as well.
    pub fn differences_in_place(&self, other: &Self) -> Vec<String> {
        let mut found = self.differences(other);
        if self.shards != other.shards {
            let words = |header: &Self| match header.shards.as_slice() {
                [] => "all of the archive".to_owned(),
                shards => format!("shard {}", shards.join(", ")),
            };
            found.push(format!("{} there, {} here", words(self), words(other)));
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

/// Every place where two plans differ; where the model lies is none.
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
        Header::new(plan, (fingerprint, "f32 on cpu".to_owned()), &[file], Shard::default()).expect("texts")
    }

    #[test]
    fn what_differs_is_told_choice_by_choice() {
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
        let told = format!("frames and prompts are of revision 1 there, {REVISION} here");
        assert_eq!(older.differences(&there), [told]);
        let mut written = serde_json::to_value(&there).expect("texts");
        written.as_object_mut().expect("a map").remove("revision");
        assert_eq!(serde_json::from_value::<Header>(written).expect("an older header"), older);
        let shard = Header { shards: vec!["1/3".to_owned()], ..there.clone() };
        assert_eq!(there.differences_in_place(&shard), ["all of the archive there, shard 1/3 here"]);
    }
}
