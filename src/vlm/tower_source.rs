//! Location of a vision tower: inside the checkpoint, or in a directory of its own.

use std::path::{Path, PathBuf};

use super::config::{JsonFile, KeyNotes, VlmConfig, fp8_format, published_tower, tower_config, tower_notes};
use super::error::mismatch;
use super::names;
use crate::error::{Error, Kind};
use crate::vision::TowerConfig;
use crate::weights::{Checkpoint, Hub};

/// Location of a tower's weights.
pub enum TowerSource {
    /// In the checkpoint itself.
    Inside,
    /// In a directory of their own: its checkpoint.
    Beside(Box<Checkpoint>),
}

/// Tower that was found.
pub(super) struct FoundTower {
    pub(super) config: TowerConfig,
    pub(super) source: TowerSource,
    /// Directory of the tower, which may contain a processor file.
    pub(super) dir: Option<PathBuf>,
    /// Keys of the tower's own `config.json` that are refused or warned about.
    pub(super) notes: KeyNotes,
}

/// Search for the tower of a checkpoint.
pub(super) struct TowerSearch<'a> {
    pub(super) config: &'a VlmConfig,
    pub(super) checkpoint: &'a Checkpoint,
    /// Tower that the user named: a directory or a hub id.
    pub(super) asked: Option<&'a str>,
    pub(super) hub: &'a Hub,
}

impl TowerSearch<'_> {
    /// Finds the tower that the user, the checkpoint's tensors, or its `config.json` names, in this order.
    ///
    /// # Errors
    /// [`Error`] when no tower is named, or the named one cannot be read.
    pub(super) fn run(&self) -> Result<FoundTower, Error> {
        let &Self { config, checkpoint, asked, hub } = self;
        let dir = checkpoint.dir();
        let is_inside = names::tower_inside(checkpoint).is_some();
        if let (None, true, Some(tower)) = (asked, is_inside, &config.tower) {
            let (source, notes) = (TowerSource::Inside, KeyNotes::default());
            return Ok(FoundTower { config: tower.clone(), source, dir: None, notes });
        }
        let Some(name) = asked.or(config.tower_name.as_deref()) else {
            let error = mismatch(dir, "it names no vision tower and holds none");
            return Err(error.with_hint("name one with --vision-tower"));
        };
        let tower_dir = match hub.find_tower(dir, name) {
            Ok(tower_dir) => tower_dir,
            Err(error) => {
                // The weights are inside; only the geometry is needed, which is known for published towers.
                let known = published_tower(name).filter(|_| is_inside && asked.is_none());
                let config = known.ok_or_else(|| no_tower(dir, name, asked, error))?;
                let (source, notes) = (TowerSource::Inside, KeyNotes::default());
                return Ok(FoundTower { config, source, dir: None, notes });
            }
        };
        let file = JsonFile::read(&tower_dir.join("config.json"))?;
        let (config, notes) = (tower_config(&file)?, tower_notes(&file)?);
        let source = if is_inside && asked.is_none() {
            TowerSource::Inside
        } else {
            TowerSource::Beside(Box::new(Checkpoint::open(&tower_dir)?.with_fp8(fp8_format(&file)?)?))
        };
        Ok(FoundTower { config, source, dir: Some(tower_dir), notes })
    }
}

/// Makes the error of a tower that was not found. A path on the machine that trained the checkpoint is not a hub id:
/// the user must name the tower.
fn no_tower(dir: &Path, name: &str, asked: Option<&str>, error: Error) -> Error {
    match (asked, error) {
        (None, error) if error.kind() == Kind::NotFound => {
            let rule = format!("mm_vision_tower names `{name}`, which is neither a directory nor a hub id");
            let error = Error::new(Kind::Model, rule).with_hint("name the tower with --vision-tower");
            error.about(dir.join("config.json"))
        }
        (_, error) => error,
    }
}
