//! Generation settings of a checkpoint (`generation_config.json`), for fields that a plan leaves open.
//!
//! Reference: `generation/configuration_utils.py` of transformers 5.24. Where the file exists, only its keys count;
//! without it transformers takes the same keys from `config.json`, those at top level before those of the
//! `text_config`, without defaults of the model class. LLaVA's own code sets the sampling itself, and its classes have
//! defaults.

use std::fmt;
use std::path::Path;

use serde_json::Value;

use super::generation_keys::{IMPLEMENTED, NEUTRAL, NOT_IMPLEMENTED, SAMPLING};
use super::keys::{BASE, GENERATION, KeyNotes};
use super::{JsonFile, Spelling};
use crate::error::Error;
use crate::files;
use crate::language::{Decoding, LogitRules, SamplingConfig};

/// Generation settings of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationDefaults {
    /// Sampling, where the checkpoint sets `do_sample: true`; greedy otherwise.
    pub sampling: Option<CheckpointSampling>,
    /// Rules over the logits; `ends` are the ids that end an answer.
    pub rules: LogitRules,
}

/// Sampling of a checkpoint with `do_sample: true`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CheckpointSampling {
    /// Temperature, above 0.
    pub temperature: f64,
    /// Number of most probable ids to sample from.
    pub top_k: Option<usize>,
    /// Cumulative probability of the most probable ids to sample from.
    pub top_p: Option<f64>,
}

/// Default id that ends an answer of LLaVA's classes: that of `LlamaConfig`.
const LLAVA_EOS: u32 = 2;

impl GenerationDefaults {
    /// Reads `generation_config.json` of `dir`, or the same keys of its `config.json`, with notes on the keys.
    ///
    /// # Errors
    /// [`Error`] naming the first key that is unusable, its value and the rule.
    pub(super) fn read(dir: &Path, config: &JsonFile, spelling: Spelling) -> Result<(Self, KeyNotes), Error> {
        let path = dir.join("generation_config.json");
        let own = files::is_file(&path).then(|| JsonFile::read(&path)).transpose()?;
        let (file, mut notes) = match own {
            Some(file) => {
                let notes =
                    KeyNotes::audit(&file, &[IMPLEMENTED, SAMPLING, NOT_IMPLEMENTED, NEUTRAL, GENERATION, BASE]);
                (file, notes)
            }
            None => {
                let file = from_model_config(config)?;
                let notes = KeyNotes::audit(&file, &[IMPLEMENTED, SAMPLING, NOT_IMPLEMENTED, GENERATION]);
                (file, notes)
            }
        };
        let mut defaults = Self { sampling: None, rules: rules(&file)? };
        if spelling == Spelling::Llava {
            if defaults.rules.ends.is_empty() && !files::is_file(&path) && !config.is_null("eos_token_id") {
                defaults.rules.ends.push(LLAVA_EOS);
            }
            return Ok((defaults, notes));
        }
        if file.flag("do_sample")?.unwrap_or(false) {
            defaults.sampling = Some(sampling(&file)?);
            for &(key, _) in SAMPLING {
                if let Some(value) = file.get(key).filter(|value| !is_off(value)) {
                    let path = file.path().display();
                    notes.warnings.push(format!("{path}: {}: {value} is not obeyed when drawing", file.full_key(key)));
                }
            }
        }
        if defaults.rules.ends.is_empty() {
            let path = file.path().display();
            notes.warnings.push(format!("{path}: eos_token_id is not given: answers end at --max-new-tokens only"));
        }
        Ok((defaults, notes))
    }

    /// Returns the decoding settings: those of `asked`, with the checkpoint's for fields that it leaves open.
    pub fn decoding(&self, asked: &SamplingConfig) -> Decoding {
        let (temperature, top_k, top_p) = match (asked.temperature, self.sampling) {
            (Some(temperature), _) => (temperature, asked.top_k, asked.top_p),
            (None, Some(own)) => (own.temperature, asked.top_k.or(own.top_k), asked.top_p.or(own.top_p)),
            (None, None) => (0.0, None, None),
        };
        let mut rules = self.rules.clone();
        if let Some(penalty) = asked.repetition_penalty {
            rules.repetition_penalty = penalty;
        }
        Decoding { temperature, top_k, top_p, seed: asked.seed, rules }
    }
}

impl fmt::Display for GenerationDefaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sampling {
            None => f.write_str("greedy")?,
            Some(CheckpointSampling { temperature, top_k, top_p }) => {
                write!(f, "drawn at temperature {temperature}")?;
                top_k.map_or(Ok(()), |k| write!(f, ", top_k {k}"))?;
                top_p.map_or(Ok(()), |p| write!(f, ", top_p {p}"))?;
            }
        }
        let rules = &self.rules;
        if rules.repetition_penalty.to_bits() != 1f32.to_bits() {
            write!(f, ", repetition_penalty {}", rules.repetition_penalty)?;
        }
        for (name, value) in [
            ("no_repeat_ngram_size", rules.no_repeat_ngram_size),
            ("min_length", rules.min_length),
            ("min_new_tokens", rules.min_new_tokens),
            ("suppressed ids", rules.suppressed.len()),
            ("ids suppressed at the beginning", rules.suppressed_first.len()),
            ("bad_words_ids", rules.banned.len()),
            ("sequence_bias", rules.biases.len()),
        ] {
            if value > 0 {
                write!(f, ", {name} {value}")?;
            }
        }
        match rules.ends.as_slice() {
            [] => f.write_str("; no id ends an answer"),
            ends => {
                let ends: Vec<String> = ends.iter().map(u32::to_string).collect();
                write!(f, "; ends at id {}", ends.join(", "))
            }
        }
    }
}

/// Returns whether a sampling filter is off at this value.
fn is_off(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number <= 0.0 || number >= 1.0)
}

/// Returns the generation keys of `config.json`, those at top level before those of the `text_config`.
fn from_model_config(config: &JsonFile) -> Result<JsonFile, Error> {
    let text = config.section_or_empty("text_config")?;
    let known = |key: &str| {
        [IMPLEMENTED, SAMPLING, NOT_IMPLEMENTED, GENERATION].iter().any(|table| table.iter().any(|k| k.0 == key))
    };
    let mut object = serde_json::Map::new();
    for file in [&text, config] {
        let keys = file.json().as_object().into_iter().flatten().filter(|(key, value)| known(key) && !value.is_null());
        object.extend(keys.map(|(key, value)| (key.clone(), value.clone())));
    }
    Ok(config.with(Value::Object(object)))
}

fn rules(file: &JsonFile) -> Result<LogitRules, Error> {
    const MAX_TOKENS: usize = 1 << 24;
    let count = |key: &str| Ok::<_, Error>(file.count(key, 0..=MAX_TOKENS)?.unwrap_or(0));
    let mut ends = file.ids("eos_token_id")?;
    ends.sort_unstable();
    ends.dedup();
    Ok(LogitRules {
        biases: biases(file)?,
        repetition_penalty: file.positive("repetition_penalty")?.unwrap_or(1.0) as f32,
        no_repeat_ngram_size: count("no_repeat_ngram_size")?,
        banned: banned(file)?,
        min_length: count("min_length")?,
        min_new_tokens: count("min_new_tokens")?,
        suppressed: file.ids("suppress_tokens")?,
        suppressed_first: file.ids("begin_suppress_tokens")?,
        ends,
    })
}

fn sequence(value: &Value) -> Option<Vec<u32>> {
    let ids = value.as_array()?.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
    ids.collect::<Option<Vec<u32>>>().filter(|ids| !ids.is_empty())
}

fn banned(file: &JsonFile) -> Result<Vec<Vec<u32>>, Error> {
    let read = |value: &Value| value.as_array()?.iter().map(sequence).collect::<Option<Vec<_>>>();
    let wrong = || file.wrong("bad_words_ids", "expected a list of lists of token ids");
    file.get("bad_words_ids").map_or(Ok(Vec::new()), |value| read(value).ok_or_else(wrong))
}

fn biases(file: &JsonFile) -> Result<Vec<(Vec<u32>, f32)>, Error> {
    let entry = |value: &Value| match value.as_array()?.as_slice() {
        [ids, bias] => Some((sequence(ids)?, bias.as_f64()? as f32)),
        _ => None,
    };
    let read = |value: &Value| value.as_array()?.iter().map(entry).collect::<Option<Vec<_>>>();
    let wrong = || file.wrong("sequence_bias", "expected a list of [[token ids], bias]");
    file.get("sequence_bias").map_or(Ok(Vec::new()), |value| read(value).ok_or_else(wrong))
}

/// Reads the sampling of `do_sample: true`, with the defaults of `generate()`.
fn sampling(file: &JsonFile) -> Result<CheckpointSampling, Error> {
    const MAX_K: usize = 1 << 24;
    const DEFAULT_K: usize = 50;
    let top_p = file.positive("top_p")?.filter(|&p| p < 1.0);
    let top_k = Some(file.count("top_k", 0..=MAX_K)?.unwrap_or(DEFAULT_K)).filter(|&k| k > 0);
    Ok(CheckpointSampling { temperature: file.positive("temperature")?.unwrap_or(1.0), top_k, top_p })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(config: &Value, own: Option<&Value>, spelling: Spelling) -> (GenerationDefaults, KeyNotes) {
        let dir = tempfile::tempdir().expect("a directory");
        let write =
            |name: &str, json: &Value| std::fs::write(dir.path().join(name), json.to_string()).expect("written");
        write("config.json", config);
        if let Some(own) = own {
            write("generation_config.json", own);
        }
        let config = JsonFile::read(&dir.path().join("config.json")).expect("JSON");
        GenerationDefaults::read(dir.path(), &config, spelling).expect("good files")
    }

    fn ends(config: &Value, own: Option<&Value>, spelling: Spelling) -> Vec<u32> {
        read(config, own, spelling).0.rules.ends
    }

    #[test]
    fn the_ids_that_end_an_answer_are_those_of_generation_config_alone() {
        let both = json!({"eos_token_id": 7, "text_config": {"eos_token_id": 5}});
        let hf = Spelling::HuggingFace;
        assert_eq!(ends(&both, Some(&json!({"eos_token_id": [9, 8, 9]})), hf), [8, 9]);
        assert_eq!(ends(&both, Some(&json!({"eos_token_id": null})), hf), [0; 0]);
        assert_eq!(ends(&both, Some(&json!({})), hf), [0; 0]);
        // Without the file: top level, then the language model's, and no default of its class.
        assert_eq!(ends(&both, None, hf), [7]);
        assert_eq!(ends(&json!({"eos_token_id": null, "text_config": {"eos_token_id": 5}}), None, hf), [5]);
        assert_eq!(ends(&json!({"text_config": {}}), None, hf), [0; 0]);
        // LLaVA's classes have one.
        assert_eq!(ends(&json!({}), None, Spelling::Llava), [2]);
        assert_eq!(ends(&json!({"eos_token_id": 6}), None, Spelling::Llava), [6]);
        assert_eq!(ends(&json!({"eos_token_id": null}), None, Spelling::Llava), [0; 0]);
    }

    #[test]
    fn fields_that_a_plan_leaves_open_are_the_checkpoints() {
        let own =
            json!({"eos_token_id": 2, "do_sample": true, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.5});
        let (defaults, notes) = read(&json!({"text_config": {}}), Some(&own), Spelling::HuggingFace);
        assert_eq!(notes, KeyNotes::default());
        let open = defaults.decoding(&SamplingConfig::default());
        assert_eq!((open.temperature, open.top_k, open.top_p), (0.6, Some(50), Some(0.9)));
        let given =
            SamplingConfig { temperature: Some(0.0), repetition_penalty: Some(1.0), ..SamplingConfig::default() };
        let greedy = defaults.decoding(&given);
        assert_eq!((greedy.temperature, greedy.top_k, greedy.top_p), (0.0, None, None));
        assert!(greedy.rules.is_neutral() && !open.rules.is_neutral());
        assert_eq!(
            defaults.to_string(),
            "drawn at temperature 0.6, top_k 50, top_p 0.9, repetition_penalty 1.5; ends at id 2"
        );
        // LLaVA's code sets the sampling itself; a temperature without `do_sample` means nothing.
        let (llava, _) = read(&json!({}), Some(&own), Spelling::Llava);
        assert_eq!(llava.sampling, None);
        let warm = json!({"temperature": 0.9, "top_p": 0.6, "eos_token_id": 2});
        assert_eq!(read(&json!({}), Some(&warm), Spelling::HuggingFace).0.to_string(), "greedy; ends at id 2");
    }

    #[test]
    fn every_rule_is_read() {
        let own = json!({
            "eos_token_id": 2, "no_repeat_ngram_size": 3, "min_length": 4, "min_new_tokens": 5, "suppress_tokens": [6],
            "begin_suppress_tokens": [7, 8], "bad_words_ids": [[9], [10, 11]], "sequence_bias": [[[12], -1.5]],
        });
        let rules = read(&json!({"text_config": {}}), Some(&own), Spelling::HuggingFace).0.rules;
        let expected = LogitRules {
            biases: vec![(vec![12], -1.5)],
            no_repeat_ngram_size: 3,
            banned: vec![vec![9], vec![10, 11]],
            min_length: 4,
            min_new_tokens: 5,
            suppressed: vec![6],
            suppressed_first: vec![7, 8],
            ends: vec![2],
            ..LogitRules::default()
        };
        assert_eq!(rules, expected);
    }

    #[test]
    fn keys_that_change_the_answer_and_are_not_implemented_are_refused_by_name() {
        let own = json!({"eos_token_id": 2, "num_beams": 4, "guidance_scale": 1.0, "penalty_alpha": 0.6, "num_beam_groups": 1});
        let (_, notes) = read(&json!({"text_config": {}}), Some(&own), Spelling::HuggingFace);
        let names: Vec<bool> =
            ["num_beams: 4", "penalty_alpha: 0.6"].map(|key| notes.refused.iter().any(|r| r.contains(key))).to_vec();
        assert_eq!((names, notes.refused.len()), (vec![true, true], 2), "{notes:?}");
        let drawn = json!({"eos_token_id": 2, "do_sample": true, "min_p": 0.1, "typical_p": 1.0, "loudness": 3});
        let (_, notes) = read(&json!({"text_config": {}}), Some(&drawn), Spelling::HuggingFace);
        assert!(notes.refused.is_empty());
        assert!(notes.warnings[0].ends_with("unknown keys have no effect: loudness"), "{notes:?}");
        assert!(notes.warnings[1].ends_with("min_p: 0.1 is not obeyed when drawing"), "{notes:?}");
        assert_eq!(notes.warnings.len(), 2);
    }
}
