//! Key of cached features: a hash of everything that decides the features of a frozen tower.
//!
//! The key is a hash of one JSON object with named values ([`KeyValues`]) and of the tower's weights by their names, in
//! f32. No name of a type enters it, so refactoring leaves cached features valid; a new value that changes features
//! must be added to [`KeyValues`].

use candle_core::Device;
use serde::Serialize;

use crate::connector::ConnectorKind;
use crate::error::{Error, Kind};
use crate::image::PreprocessConfig;
use crate::train::data::Dataset;
use crate::train::parameters::{Parameters, Part};
use crate::vision::TowerConfig;
use crate::vlm::{Design, FeatureSelection};

/// Values of the key beside the tower's weights.
#[derive(Serialize)]
struct KeyValues<'a> {
    /// Identity of the images.
    images: String,
    connector: ConnectorKind,
    final_layer: usize,
    /// Hidden states of the connector, in its order.
    layers: Vec<usize>,
    selection: FeatureSelection,
    preprocess: &'a PreprocessConfig,
    tower: &'a TowerConfig,
}

/// Returns the key of the features of a dataset, 16 hex digits.
pub(super) fn features_key(design: &Design, parameters: &Parameters, data: &dyn Dataset) -> Result<String, Error> {
    let values = KeyValues {
        images: data.identity(),
        connector: design.connector.kind(),
        final_layer: design.connector.final_layer().0,
        layers: design.connector.layers().iter().map(|layer| layer.0).collect(),
        selection: design.config.feature_selection(design.tower.family),
        preprocess: &design.preprocess,
        tower: &design.tower,
    };
    let values = serde_json::to_vec(&values).map_err(|error| Error::caused_by(Kind::Defect, error))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&values);
    for (name, tensor) in parameters.all() {
        if Part::of(&name) == Part::VisionTower {
            let values = tensor.to_device(&Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
            let values = values.map_err(Error::compute("hashing the tower"))?;
            hasher.update(name.as_bytes());
            values.iter().for_each(|value| {
                hasher.update(&value.to_le_bytes());
            });
        }
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}
