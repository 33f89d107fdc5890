//! Export of a trained model: safetensors in the released layout, or in that of the checkpoint that the model begins
//! with.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::{FIRST_MATRIX, Output, Trainer};
use crate::error::Error;
use crate::train::design::{TOWER_DIR, TowerPlace, WEIGHTS};
use crate::train::parameters::Part;
use crate::train::state::write_tensors;
use crate::vlm::{Replaced, StartingWeights};

impl Trainer<'_> {
    /// Writes the model in the released layout: language model and projector here, the tower beside.
    pub(super) fn export(&self, output: &Output<'_>) -> Result<(), Error> {
        if let (TowerPlace::Inside, Some(from)) = (self.place, &self.from) {
            return self.export_inside(from, output);
        }
        let dir = output.model;
        let failed = Error::compute("writing the model");
        let (mut tower, mut model) = (BTreeMap::new(), BTreeMap::new());
        for (name, tensor) in self.parameters.all() {
            let tensor = self.finished(&name, tensor, output.dtype).map_err(&failed)?;
            match name.strip_prefix("vision_tower.") {
                Some(name) => tower.insert(name.to_owned(), tensor),
                None => model.insert(name, tensor),
            };
        }
        if self.place == TowerPlace::Own {
            write_tensors(&dir.join(TOWER_DIR).join(WEIGHTS), &tower, None)?;
        }
        write_tensors(&dir.join(WEIGHTS), &model, None)
    }

    /// Writes a model in the file layout of the checkpoint that it begins with: tensors of frozen parts as they are
    /// stored there, trained ones under the same names, a new projector as `model.mm_projector`.
    fn export_inside(&self, from: &StartingWeights, output: &Output<'_>) -> Result<(), Error> {
        let failed = Error::compute("writing the model");
        let is_new = self.recipe.model.has_new_projector();
        let replaced = Replaced { projector: is_new, language: self.recipe.trains(Part::LanguageModel) };
        let mut tensors = from.rest(replaced).map_err(&failed)?;
        for (name, tensor) in self.parameters.all() {
            let part = Part::of(&name);
            let written = match part {
                Part::Projector if is_new => name.clone(),
                Part::Projector if self.recipe.trains(part) => from.projector_name(&name[part.prefix().len()..]),
                Part::LanguageModel if replaced.language => from.language_name(&name),
                _ => continue,
            };
            tensors.insert(written, self.finished(&name, tensor, output.dtype).map_err(&failed)?);
        }
        write_tensors(&output.model.join(WEIGHTS), &tensors, None)
    }

    /// Returns a weight as it is written: with the scale of the features folded in.
    fn finished(&self, name: &str, tensor: Tensor, dtype: DType) -> candle_core::Result<Tensor> {
        let is_first = FIRST_MATRIX.contains(&name);
        let tensor = if is_first { (tensor * self.recipe.model.feature_scale)? } else { tensor };
        tensor.to_dtype(dtype)?.to_device(&Device::Cpu)
    }
}
