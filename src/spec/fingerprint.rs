//! Fingerprint of a plan: plans with equal fingerprints make the same choices over the same model files.
//!
//! Results and cached visual tokens are stored under it. The model's name and the distribution of work are left out, as
//! they change no answer.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::kept_hashes::KeptHashes;
use super::{ExecPlan, Plan};
use crate::device::{DTypeSpec, DeviceSpec};
use crate::files;
use crate::spec::{GeneratePlan, PromptPlan, Quantization, RopePlan, VisionPlan};
use crate::video::Window;

/// Files up to this size are hashed whole.
const WHOLE: u64 = 64 << 20;
/// Bytes that are hashed at either end of a larger file, beside samples between them and the length: a checkpoint of
/// 14 GB must not be read twice before the first answer.
const END: u64 = 1 << 20;
/// Number of samples, at equal distances.
const N_SAMPLES: u64 = 256;
const SAMPLE: u64 = 16 << 10;
/// Hex digits of a fingerprint.
const DIGITS: usize = 32;

/// Identity of a model's file, by its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// Name without the directory: a model is the same in any directory.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// 32 hex digits of BLAKE3 over the file; over its two ends and samples between them above 64 MiB.
    pub blake3: String,
}

/// Hashes the files of a model; hashes of large files are cached by path, length and times in the user's cache.
///
/// # Errors
/// When a file cannot be read.
pub fn hash_files(paths: &[PathBuf]) -> std::io::Result<Vec<ModelFile>> {
    let mut kept = KeptHashes::of_user();
    let hashed = paths.iter().map(|path| hash_or_find(path, &mut kept)).collect();
    kept.save();
    hashed
}

fn hash_or_find(path: &Path, kept: &mut KeptHashes) -> std::io::Result<ModelFile> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some((bytes, blake3)) = kept.get(path) {
        return Ok(ModelFile { name, bytes, blake3 });
    }
    let named = |error: std::io::Error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let (bytes, hash) = hash_file(path).map_err(named)?;
    let blake3 = hash.to_hex()[..DIGITS].to_owned();
    kept.put(path, &blake3);
    Ok(ModelFile { name, bytes, blake3 })
}

/// Returns 32 hex digits of BLAKE3 over a plan as YAML without the model's name, and over the model's files.
///
/// # Errors
/// Never for a resolved plan, whose keys are texts.
pub fn fingerprint(plan: &Plan, files: &[ModelFile]) -> std::io::Result<String> {
    // The distribution of work changes no answer.
    digest(Plan { exec: ExecPlan::default(), ..plan.clone() }, files)
}

/// Returns the fingerprint of the choices alone that visual tokens depend on: those up to `temporal`, without the
/// window.
///
/// # Errors
/// As [`fingerprint`].
pub(crate) fn visual_fingerprint(plan: &Plan, files: &[ModelFile]) -> std::io::Result<String> {
    let visual = Plan {
        device: DeviceSpec::Auto,
        // Visual tokens are cached together with the arithmetic that made them.
        vision: VisionPlan::default(),
        window: Window::default(),
        quantization: Quantization::None,
        kv_dtype: DTypeSpec::Auto,
        rope: RopePlan::Checkpoint,
        prompt: PromptPlan::default(),
        generate: GeneratePlan::default(),
        exec: ExecPlan::default(),
        ..plan.clone()
    };
    digest(visual, files)
}

fn digest(plan: Plan, files: &[ModelFile]) -> std::io::Result<String> {
    let nameless = Plan { model: String::new(), vision_tower: None, llm: None, ..plan };
    let mut hasher = blake3::Hasher::new();
    hasher.update(nameless.to_yaml().map_err(std::io::Error::other)?.as_bytes());
    for ModelFile { name, bytes, blake3 } in files {
        hasher.update(name.as_bytes());
        hasher.update(&bytes.to_le_bytes());
        hasher.update(blake3.as_bytes());
    }
    Ok(hasher.finalize().to_hex()[..DIGITS].to_owned())
}

fn hash_file(path: &Path) -> std::io::Result<(u64, blake3::Hash)> {
    let mut hasher = blake3::Hasher::new();
    if let Some(bytes) = files::builtin(path) {
        return Ok((bytes.len() as u64, hasher.update(bytes).finalize()));
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length <= WHOLE {
        return Ok((length, hasher.update_reader(file)?.finalize()));
    }
    hasher.update_reader((&mut file).take(END))?;
    for i in 0..N_SAMPLES {
        file.seek(SeekFrom::Start(END + (length - 2 * END) / N_SAMPLES * i))?;
        hasher.update_reader((&mut file).take(SAMPLE))?;
    }
    file.seek(SeekFrom::End(-(END as i64)))?;
    Ok((length, hasher.update_reader(file)?.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::SingleImagePlan;
    use crate::video::ImageRate;

    #[test]
    fn choices_of_the_language_model_change_no_visual_fingerprint() {
        let file = |hash: &str| ModelFile { name: "a".to_owned(), bytes: 1, blake3: hash.to_owned() };
        let plan = Plan::default();
        let prints = |plan: &Plan, hash| {
            let files = [file(hash)];
            (fingerprint(plan, &files).expect("texts"), visual_fingerprint(plan, &files).expect("texts"))
        };
        let (whole, visual) = prints(&plan, "x");
        let asked = Plan { generate: GeneratePlan { max_new_tokens: 3, ..GeneratePlan::default() }, ..plan.clone() };
        let (other_whole, same_visual) = prints(&asked, "x");
        assert!(other_whole != whole && same_visual == visual);
        let pooled = Plan { temporal: Some("concat".parse().expect("a strategy")), ..plan.clone() };
        assert_ne!(prints(&pooled, "x").1, visual);
        // So does the way with a single image.
        let tiled = Plan { single_image: Some(SingleImagePlan::AnyRes), ..plan.clone() };
        let framed = Plan { single_image: Some(SingleImagePlan::Frame), ..plan.clone() };
        assert!(prints(&tiled, "x").1 != prints(&framed, "x").1 && prints(&tiled, "x").1 != visual);
        // Another stream of a file is another video.
        let streamed = Plan { stream: Some(1), ..plan.clone() };
        let (streamed_whole, streamed_visual) = prints(&streamed, "x");
        assert!(streamed_whole != whole && streamed_visual != visual);
        // Other times of a directory's images are another video.
        let timed = Plan { image_rate: Some(ImageRate::new(3.0).expect("above 0")), ..plan.clone() };
        let (timed_whole, timed_visual) = prints(&timed, "x");
        assert!(timed_whole != whole && timed_visual != visual);
        assert_ne!(prints(&plan, "y"), (whole, visual));
    }
}
