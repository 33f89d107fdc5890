//! Preparation and sampling of frames as a checkpoint's files set them. Called by [`super::Blueprint::read`] and
//! [`super::Design::read`].

use std::path::Path;

use super::config::processor::{ProcessorClass, ProcessorFile};
use super::config::{FrameFit, KeyNotes, Spelling, VlmConfig};
use crate::error::Error;
use crate::image::{ImageProcessor, PreprocessConfig};
use crate::video::Sample;
use crate::video::sample::LlavaVideoSampling;
use crate::vision::{TowerConfig, TowerFamily};

/// Preparation of frames, and the sampling rule of the checkpoint's processor.
pub(super) struct FrameSettings {
    pub(super) preprocess: PreprocessConfig,
    pub(super) sample: Sample,
    /// Keys of the processor's files that are refused or warned about.
    pub(super) notes: KeyNotes,
}

impl FrameSettings {
    /// Reads the settings from the first of `dirs` with a processor file, else takes the defaults of the tower's
    /// family; then fits frames as the checkpoint says.
    ///
    /// # Errors
    /// [`Error`] naming the first key that is unusable.
    pub(super) fn read(config: &VlmConfig, tower: &TowerConfig, dirs: &[Option<&Path>]) -> Result<Self, Error> {
        let size = tower.image_size as u32;
        let own = config.video_path.processor().filter(|_| config.spelling == Spelling::HuggingFace);
        let class = match own.or(config.processor) {
            Some(class) => ProcessorClass::Named(class),
            None => ProcessorClass::Fixed(ProcessorClass::of_tower(tower.family)),
        };
        let mut found = None;
        for dir in dirs.iter().flatten() {
            found = ProcessorFile::find(dir, config.video_path)?;
            if found.is_some() {
                break;
            }
        }
        let sample = found.as_ref().map(ProcessorFile::own_sample).transpose()?;
        let (preprocess, notes) = match found {
            Some(file) => {
                let (preprocess, mut notes) = file.read(class)?;
                if config.spelling == Spelling::HuggingFace {
                    notes.refused.extend(file.check_tokens(config, tower)?);
                }
                (preprocess, notes)
            }
            None => family_default(config, tower, dirs),
        };
        let preprocess = match config.frame_fit {
            FrameFit::Native => preprocess,
            FrameFit::Pad => preprocess.padded(),
            FrameFit::AnyresBase => preprocess.squeezed(size),
        };
        // In LLaVA's spelling the processor file is the tower's, and the sampling is that of LLaVA's code.
        let sample = match config.spelling {
            Spelling::HuggingFace => sample.unwrap_or(config.video_path.sample()),
            Spelling::Llava if config.video_path.is_own() => Sample::LlavaVideo(LlavaVideoSampling::default()),
            Spelling::Llava => Sample::default(),
        };
        Ok(Self { preprocess, sample, notes })
    }
}

/// Returns the preprocessing of a tower's family at its own size. LLaVA's files rely on it; for Hugging Face's, which
/// do not, a warning is noted.
fn family_default(config: &VlmConfig, tower: &TowerConfig, dirs: &[Option<&Path>]) -> (PreprocessConfig, KeyNotes) {
    let size = tower.image_size as u32;
    let preprocess = match tower.family {
        TowerFamily::Clip => PreprocessConfig::clip(size),
        TowerFamily::Siglip => PreprocessConfig::siglip(size),
        TowerFamily::InternVit => PreprocessConfig::clip(size).squeezed(size),
    };
    let mut notes = KeyNotes::default();
    if config.spelling == Spelling::HuggingFace {
        let dir = dirs.iter().flatten().last().map_or(Path::new(""), |dir| *dir).display();
        let family = format!("{:?}", tower.family);
        notes.warnings.push(format!(
            "{dir}: no processor_config.json and no preprocessor_config.json: frames are prepared as {family} does by \
             default"
        ));
    }
    let is_base_view = config.processor == Some(ImageProcessor::LlavaNext);
    (if is_base_view { preprocess.squeezed(size) } else { preprocess }, notes)
}
