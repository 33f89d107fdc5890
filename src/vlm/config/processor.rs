//! Image processor files of a checkpoint or a tower: choice between two files, the class that they name, their keys.
//!
//! Reference: `image_processing_base.py` and `auto/image_processing_auto.py` of transformers 5.24. An `image_processor`
//! in `processor_config.json`, as transformers 5 writes it, comes before `preprocessor_config.json`. Families that take
//! videos have a section or a file of their own for them (`video_processing_utils.py`); for others frames are images.

use std::path::Path;

use super::keys::{Key, KeyNotes, Meaning};
use super::{AnyResKeys, JsonFile, VlmConfig};
use crate::error::Error;
use crate::files;
use crate::image::{ImageProcessor, PreprocessConfig};
use crate::video::Sample;
use crate::video::sample::{InternVlSampling, OneVisionSampling, SmolVlmSampling};
use crate::vision::{TowerConfig, TowerFamily};
use crate::vlm::VideoPath;

/// Processor file of transformers 5.
const PROCESSOR: &str = "processor_config.json";
/// File of the image processor alone.
const PREPROCESSOR: &str = "preprocessor_config.json";
/// Section of [`PROCESSOR`] that takes the place of [`PREPROCESSOR`].
const SECTION: &str = "image_processor";
/// Section of [`PROCESSOR`] for videos.
const VIDEO_SECTION: &str = "video_processor";
/// File of the video processor alone.
const VIDEO_PREPROCESSOR: &str = "video_preprocessor_config.json";

/// Image processor of a directory, as its files describe it.
pub(crate) struct ProcessorFile {
    /// Keys of the image processor.
    image: JsonFile,
    /// Contents of `processor_config.json`, if the file exists.
    whole: Option<JsonFile>,
    /// The family's own processing of videos.
    path: VideoPath,
}

/// Largest number of frames that a file may give.
const MAX_FRAMES: usize = 100_000;

/// Choice of the class that prepares frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessorClass {
    /// This class, whatever a file names: LLaVA's code loads the tower's own.
    Fixed(ImageProcessor),
    /// The class that the file names, by default this one.
    Named(ImageProcessor),
}

impl ProcessorClass {
    /// Returns the class that LLaVA's code uses for a tower.
    pub(crate) fn of_tower(family: TowerFamily) -> ImageProcessor {
        match family {
            TowerFamily::Clip => ImageProcessor::Clip,
            TowerFamily::Siglip => ImageProcessor::Siglip,
            TowerFamily::InternVit => ImageProcessor::Clip,
        }
    }
}

/// Keys of `processor_config.json` around the image processor.
const WHOLE: &[Key] = &[
    ("auto_map", Meaning::Neutral),
    ("chat_template", Meaning::Neutral),
    ("feature_extractor", Meaning::Neutral),
    ("image_processor", Meaning::Neutral),
    ("image_seq_len", Meaning::Neutral),
    ("image_seq_length", Meaning::Neutral),
    ("image_token", Meaning::Neutral),
    ("num_additional_image_tokens", Meaning::Neutral),
    ("num_image_tokens", Meaning::Neutral),
    ("patch_size", Meaning::Neutral),
    ("processor_class", Meaning::Neutral),
    ("tokenizer", Meaning::Neutral),
    ("transformers_version", Meaning::Neutral),
    ("video_processor", Meaning::Neutral),
    ("video_token", Meaning::Neutral),
    ("vision_aspect_ratio", Meaning::Neutral),
    ("vision_feature_select_strategy", Meaning::Neutral),
];

impl ProcessorFile {
    /// Finds the processor file of a directory: the video processor's for families with a processor for videos.
    ///
    /// # Errors
    /// When a file is not JSON, or its section is not an object.
    pub(crate) fn find(dir: &Path, path: VideoPath) -> Result<Option<Self>, Error> {
        let open = |name: &str| {
            let path = dir.join(name);
            files::is_file(&path).then(|| JsonFile::read(&path)).transpose()
        };
        let whole = open(PROCESSOR)?;
        let section = if path.takes_videos() { VIDEO_SECTION } else { SECTION };
        if let Some(file) = &whole
            && file.get(section).is_some()
        {
            return Ok(Some(Self { image: file.section(section)?, whole, path }));
        }
        let video = if path.takes_videos() { open(VIDEO_PREPROCESSOR)? } else { None };
        let image = video.map_or_else(|| open(PREPROCESSOR), |video| Ok(Some(video)))?;
        Ok(image.map(|image| Self { image, whole, path }))
    }

    /// Reads the preprocessing steps.
    ///
    /// # Errors
    /// [`Error`] for an unknown class, or naming the first key that is unusable.
    pub(crate) fn read(&self, class: ProcessorClass) -> Result<(PreprocessConfig, KeyNotes), Error> {
        let class = match class {
            ProcessorClass::Fixed(class) => class,
            ProcessorClass::Named(default) => self.class(default)?,
        };
        let failed = |error: Error| error.about(self.image.path());
        let reading = class.read(self.image.json()).map_err(failed)?;
        let path = self.image.path().display();
        let refused = reading.refused.iter().map(|error| format!("{path}: {error}")).collect();
        let mut notes = KeyNotes { refused, ..KeyNotes::default() };
        let unknown: Vec<String> = reading.unknown.iter().map(|key| self.image.full_key(key)).collect();
        notes.warn_of_unknown(&self.image, &unknown);
        if let Some(whole) = &self.whole {
            notes.extend(KeyNotes::audit(whole, &[WHOLE]));
        }
        Ok((reading.config, notes))
    }

    /// Returns the processor's sampling rule for a video: that of its family, with the values of the file.
    ///
    /// # Errors
    /// When a key has an unusable value.
    pub(crate) fn own_sample(&self) -> Result<Sample, Error> {
        let sampling = self.image.section_or_empty("video_sampling")?;
        let count = |file: &JsonFile, key: &str| file.count(key, 1..=MAX_FRAMES);
        let is_sampled = self.image.flag("do_sample_frames")?.unwrap_or(false);
        let n_frames = count(&self.image, "num_frames")?;
        let (one_vision, internvl) = (OneVisionSampling::default(), InternVlSampling::default());
        let wanted = n_frames.filter(|_| is_sampled);
        if is_sampled && n_frames.is_none() && self.image.get("fps").is_some() && self.path != VideoPath::SmolVlm {
            return Err(self
                .image
                .wrong("fps", "sampling by frame rate is supported for SmolVLM only; expected num_frames"));
        }
        Ok(match self.path {
            VideoPath::None | VideoPath::Idefics3 => self.path.sample(),
            VideoPath::OneVision => {
                Sample::OneVision(OneVisionSampling { frames: wanted.unwrap_or(one_vision.frames) })
            }
            VideoPath::InternVl => Sample::InternVl(InternVlSampling { frames: wanted.unwrap_or(internvl.frames) }),
            VideoPath::SmolVlm => {
                let default = SmolVlmSampling::default();
                let fps = sampling.positive("fps")?.or(self.image.positive("fps")?);
                let max = count(&sampling, "max_frames")?.or(n_frames);
                let rule =
                    SmolVlmSampling { fps: fps.unwrap_or(default.fps), max: max.unwrap_or(default.max), ..default };
                let sample = Sample::SmolVlm(rule);
                sample.check().map_err(|error| self.image.unusable("fps", error))?;
                sample
            }
        })
    }

    /// Reads the AnyRes keys, with the defaults of the family whose images `class` prepares.
    ///
    /// # Errors
    /// When a key has an unusable value.
    pub(crate) fn any_res_keys(&self, class: ImageProcessor) -> Result<AnyResKeys, Error> {
        let default = match class {
            ImageProcessor::LlavaOnevision => AnyResKeys::llava_onevision(),
            _ => AnyResKeys::llava_next(),
        };
        default.read(&self.image, self.whole.as_ref())
    }

    /// Returns the class that the file names; old files name a feature extractor.
    fn class(&self, default: ImageProcessor) -> Result<ImageProcessor, Error> {
        // A processor for videos prepares them itself, whatever class the file names for images.
        let keys: &[&str] = match self.path.takes_videos() {
            true => &["video_processor_type"],
            false => &["image_processor_type", "feature_extractor_type"],
        };
        let key = keys.iter().copied().find(|key| self.image.get(key).is_some());
        let Some(key) = key else { return Ok(default) };
        let named = self.image.string(key)?.and_then(ImageProcessor::named).ok_or_else(|| {
            self.image.wrong(
                key,
                "supported are CLIPImageProcessor, SiglipImageProcessor, LlavaImageProcessor, LlavaNextImageProcessor, \
                 BitImageProcessor, ViTImageProcessor, DeiTImageProcessor, BlipImageProcessor, Idefics3ImageProcessor, \
                 SmolVLMVideoProcessor, LlavaOnevisionVideoProcessor and InternVLVideoProcessor",
            )
        })?;
        if self.path.takes_videos() && named != default {
            return Err(self.image.wrong(key, "this is the processor of another family"));
        }
        // The base view of LLaVA-NeXT is squeezed whichever processor fills in the numbers.
        Ok(if default == ImageProcessor::LlavaNext { default } else { named })
    }

    /// Checks that the processor counts as many visual tokens as the model makes; transformers refuses such a prompt.
    ///
    /// # Errors
    /// When a key has an unusable value.
    pub(crate) fn check_tokens(&self, config: &VlmConfig, tower: &TowerConfig) -> Result<Vec<String>, Error> {
        const MAX: usize = 1 << 16;
        let Some(whole) = &self.whole else { return Ok(Vec::new()) };
        let (patch, strategy) = (whole.count("patch_size", 1..=MAX)?, whole.string("vision_feature_select_strategy")?);
        let additional = whole.count("num_additional_image_tokens", 0..=MAX)?;
        // Files older than the last key leave the count to the model.
        let (Some(patch), Some(strategy), Some(additional)) = (patch, strategy, additional) else {
            return Ok(Vec::new());
        };
        let side = tower.image_size / patch;
        let counted = (side * side + additional).saturating_sub(usize::from(strategy == "default"));
        let made = config.feature_selection(tower.family).n_kept(tower);
        let rule = || {
            format!(
                "{}: patch_size {patch}, num_additional_image_tokens {additional} and vision_feature_select_strategy {strategy} \
                 count {counted} tokens a frame, but the model makes {made}",
                whole.path().display()
            )
        };
        Ok((counted != made).then(rule).into_iter().collect())
    }
}
