//! Beginning of a run: the state of an earlier run, the starting checkpoint and the source of initial weights.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::FIRST_MATRIX;
use super::directory::in_tower;
use crate::error::{Error, Kind};
use crate::projector::ProjectorKind;
use crate::spec::{ModelFile, hash_files};
use crate::train::design::{ModelStart, TowerPlace};
use crate::train::init::initial;
use crate::train::parameters::{Part, WeightSource};
use crate::train::recipe::Recipe;
use crate::train::state::{self, State};
use crate::vlm::{Design, StartingTower, StartingWeights};
use crate::weights::weight_paths;

/// Returns the weight files that the model begins with, with hashes. Names of the tower's files begin with its
/// directory.
pub(super) fn hash_sources(start: &ModelStart) -> Result<Vec<ModelFile>, Error> {
    let hashed = |dir: &PathBuf| -> Result<Vec<ModelFile>, Error> {
        hash_files(&weight_paths(dir)?).map_err(|error| Error::caused_by(Kind::Unreadable, error))
    };
    let mut sources = start.from.as_ref().map(hashed).transpose()?.unwrap_or_default();
    for file in start.tower.as_ref().map(hashed).transpose()?.unwrap_or_default() {
        sources.push(ModelFile { name: in_tower(&file.name), ..file });
    }
    Ok(sources)
}

/// Returns the state of an earlier run of a recipe that is the same so far, over the same weights, or the beginning.
pub(super) fn resume(recipe: &Recipe, run_dir: &Path, sources: &[ModelFile]) -> Result<State, Error> {
    let Some(state) = State::read(run_dir)? else { return Ok(State::default()) };
    let n_stages = state.progress.n_stages_begun();
    let fingerprint = recipe.fingerprint(n_stages);
    if state.progress.recipe != fingerprint {
        let rule = format!(
            "the state is of another recipe: model and first {n_stages} stages are {}, not {fingerprint}",
            state.progress.recipe
        );
        return Err(Error::invalid(rule)
            .with_hint("another --out, or --restart to begin anew")
            .about(state::path(run_dir)));
    }
    let changed = state.progress.sources.as_deref().map_or_else(Vec::new, |earlier| changed_files(earlier, sources));
    if changed.is_empty() {
        return Ok(state);
    }
    let rule = format!("the weights that the model begins with have changed since: {}", changed.join(", "));
    Err(Error::invalid(rule).with_hint("the earlier files, or --restart to begin anew").about(state::path(run_dir)))
}

/// Returns the names of files that are in one list only, or with other contents, each once.
fn changed_files<'a>(earlier: &'a [ModelFile], now: &'a [ModelFile]) -> Vec<&'a str> {
    let gone = earlier.iter().filter(|file| !now.contains(file));
    let new = now.iter().filter(|file| !earlier.contains(file));
    let names: BTreeSet<&str> = gone.chain(new).map(|file| file.name.as_str()).collect();
    names.into_iter().collect()
}

/// Opens the weights that the model begins with, and ties the design's head as they have it.
pub(super) fn open_start(
    recipe: &Recipe,
    start: &ModelStart,
    design: &mut Design,
) -> Result<Option<Arc<StartingWeights>>, Error> {
    let Some(from) = &start.from else { return Ok(None) };
    let (weights, llama) = StartingWeights::open(from, &design.config.llama)?;
    design.config.llama = llama;
    let wrong = |error: Error| Err(error.about(from));
    if start.place == TowerPlace::Inside && !weights.has_tower() {
        return wrong(Error::invalid("the checkpoint has no vision tower"));
    }
    let width = design.connector_width();
    if let Some(takes) = weights.projector_width()
        && !recipe.model.has_new_projector()
        && takes != width
    {
        let kind = design.connector.kind();
        let rule = format!("{kind} makes tokens of {width} channels, but the checkpoint's projector takes {takes}");
        return wrong(Error::invalid(rule).with_hint("model.projector: new"));
    }
    let has_norm = matches!(design.config.projector, ProjectorKind::Mlp(mlp) if mlp.norm.is_some());
    if has_norm && recipe.model.feature_scale != 1.0 {
        let error = Error::invalid("a projector that begins with a layer norm takes no scale").with_hint("1");
        return wrong(error.about("model.feature_scale"));
    }
    Ok(Some(Arc::new(weights)))
}

/// Returns the source of the initial weights, which reads or draws each at its first use.
pub(super) fn first_weights(
    recipe: &Recipe,
    start: &ModelStart,
    design: &Design,
    model: Option<Arc<StartingWeights>>,
) -> Result<WeightSource, Error> {
    let holds_tower = start.place == TowerPlace::Inside;
    let tower = start.tower.as_deref().map(StartingTower::open).transpose()?;
    let keeps_projector = !recipe.model.has_new_projector();
    let (tower_config, seed, scale) = (design.tower.clone(), recipe.seed, recipe.model.feature_scale);
    Ok(Box::new(move |name, shape| {
        let part = Part::of(name);
        let short = &name[part.prefix().len()..];
        match (part, &model, &tower) {
            (Part::VisionTower, _, Some(tower)) => tower.weight(short, shape),
            (Part::VisionTower, Some(model), None) if holds_tower => model.tower(short, shape),
            (Part::LanguageModel, Some(model), _) => model.language(name, shape),
            (Part::Projector, Some(model), _) if keeps_projector => {
                let weight = model.projector(short, shape)?;
                // The scale is folded into what was written.
                if FIRST_MATRIX.contains(&name) { weight / scale } else { Ok(weight) }
            }
            _ => initial(name, shape, &tower_config, seed),
        }
    }))
}
