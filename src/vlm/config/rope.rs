//! Keys of the rotary embeddings: `rope_parameters` of transformers 5, `rope_scaling` and `rope_theta` of transformers
//! 4.
//!
//! Reference: `modeling_rope_utils.py` of transformers, `convert_rope_params_to_dict` for which key wins.

use super::{JsonFile, MAX_CONTEXT};
use crate::error::Error;
use crate::language::{RampEnds, RopeScaling};

const DEFAULT_THETA: f64 = 10_000.0;
const SECTIONS: [&str; 2] = ["rope_scaling", "rope_parameters"];
const TYPES: &str = "supported types are default, linear, dynamic, yarn and llama3";

/// Settings that the keys resolve to.
pub(super) struct RopeKeys {
    /// Base of the frequencies.
    pub(super) theta: f32,
    pub(super) scaling: RopeScaling,
    /// Positions of the model.
    pub(super) context: usize,
}

/// Reads the keys of a model with `positions` (`max_position_embeddings`).
///
/// # Errors
/// [`Error`] naming the key that is missing or unusable.
pub(super) fn read(file: &JsonFile, positions: usize) -> Result<RopeKeys, Error> {
    check_whole_head(file)?;
    let is_empty = |key: &str| file.get(key).and_then(serde_json::Value::as_object).is_some_and(|map| map.is_empty());
    let section = SECTIONS.into_iter().find(|key| file.get(key).is_some() && !is_empty(key));
    let section = section.map(|key| file.section(key)).transpose()?;
    let nested = section.as_ref().map(|section| section.positive("rope_theta")).transpose()?.flatten();
    let theta = nested.or(file.positive("rope_theta")?).unwrap_or(DEFAULT_THETA) as f32;
    let Some(section) = section else {
        return Ok(RopeKeys { theta, scaling: RopeScaling::None, context: positions });
    };
    check_whole_head(&section)?;
    let (scaling, context) = RopeReader { file, section: &section, positions }.scaling()?;
    Ok(RopeKeys { theta, scaling, context })
}

/// Refuses models that rotate only a part of each head.
fn check_whole_head(file: &JsonFile) -> Result<(), Error> {
    match file.positive("partial_rotary_factor")? {
        Some(factor) if factor != 1.0 => {
            Err(file.wrong("partial_rotary_factor", "only heads that are rotated as a whole are supported"))
        }
        _ => Ok(()),
    }
}

struct RopeReader<'a> {
    file: &'a JsonFile,
    section: &'a JsonFile,
    positions: usize,
}

impl RopeReader<'_> {
    /// Reads the scaling, and the positions of the model.
    fn scaling(&self) -> Result<(RopeScaling, usize), Error> {
        let section = self.section;
        let key = if section.get("rope_type").is_some() { "rope_type" } else { "type" };
        let positions = self.positions;
        match section.string(key)?.unwrap_or("default") {
            "default" => Ok((RopeScaling::None, positions)),
            "linear" => Ok((RopeScaling::Linear { factor: self.needed("factor")? as f32 }, positions)),
            "dynamic" => {
                let factor = self.needed("factor")?;
                let scaling = RopeScaling::DynamicNtk { factor: factor as f32, original_context: positions as f32 };
                Ok((scaling, grown(positions, factor)))
            }
            "llama3" => Ok((self.llama3()?, positions)),
            "yarn" => self.yarn(),
            _ => Err(section.wrong(key, TYPES)),
        }
    }

    fn llama3(&self) -> Result<RopeScaling, Error> {
        let (low_freq_factor, high_freq_factor) =
            (self.needed("low_freq_factor")? as f32, self.needed("high_freq_factor")? as f32);
        if high_freq_factor <= low_freq_factor {
            let rule = format!("it must be above low_freq_factor, {low_freq_factor}");
            return Err(self.section.wrong("high_freq_factor", &rule));
        }
        let (factor, original_context) = (self.needed("factor")? as f32, self.original()? as f32);
        Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context })
    }

    fn yarn(&self) -> Result<(RopeScaling, usize), Error> {
        let (section, original) = (self.section, self.original()?);
        // A null factor is the ratio of the two lengths.
        let factor = section.positive("factor")?.unwrap_or(self.positions as f64 / original as f64);
        let scaling = RopeScaling::Yarn {
            factor: factor as f32,
            beta_fast: self.number("beta_fast")?.unwrap_or(32.0) as f32,
            beta_slow: self.number("beta_slow")?.unwrap_or(1.0) as f32,
            attention_factor: match section.positive("attention_factor")? {
                Some(factor) => factor as f32,
                None => match (self.number("mscale")?, self.number("mscale_all_dim")?) {
                    (Some(one), Some(all)) => (magnitude(factor, one) / magnitude(factor, all)) as f32,
                    _ => magnitude(factor, 1.0) as f32,
                },
            },
            original_context: original as f32,
            ramp: match section.flag("truncate")? {
                None | Some(true) => RampEnds::Whole,
                Some(false) => RampEnds::Exact,
            },
        };
        Ok((scaling, self.positions.max(grown(original, factor))))
    }

    fn needed(&self, key: &str) -> Result<f64, Error> {
        self.section.positive(key)?.ok_or_else(|| self.section.wrong(key, "this scaling needs it"))
    }

    /// Reads a number above 0; 0 is the same as no key, as in the reference.
    fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        let is_zero = self.section.get(key).and_then(serde_json::Value::as_f64) == Some(0.0);
        if is_zero { Ok(None) } else { self.section.positive(key) }
    }

    /// Reads the context of the pretraining: at top level (as in Phi-3) before the section, else
    /// `max_position_embeddings`.
    fn original(&self) -> Result<usize, Error> {
        let read = |file: &JsonFile| file.count("original_max_position_embeddings", 1..=MAX_CONTEXT);
        Ok(read(self.file)?.or(read(self.section)?).unwrap_or(self.positions))
    }
}

/// Computes YaRN's `get_mscale`.
fn magnitude(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

fn grown(positions: usize, factor: f64) -> usize {
    ((positions as f64 * factor.max(1.0)) as usize).min(MAX_CONTEXT)
}
