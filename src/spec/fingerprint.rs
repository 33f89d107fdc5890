//! A plan's fingerprint: equal ones mean the same choices over the same model files.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{ExecPlan, Plan};
use crate::files;

/// Files up to this size are hashed whole.
const WHOLE: u64 = 64 << 20;
/// Of larger ones, this much at either end, and the length: a retrained model changes both, and a checkpoint of 14 GB
/// must not be read twice before it answers.
const END: u64 = 1 << 20;

/// 32 hex digits of BLAKE3 over the plan as YAML, its model's name aside, and the model's files.
///
/// # Errors
/// When a file cannot be read.
pub fn fingerprint(plan: &Plan, files: &[PathBuf]) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    // The same model in another directory is the same model.
    // How the work is spread changes no answer.
    let nameless = Plan { model: String::new(), vision_tower: None, exec: ExecPlan::default(), ..plan.clone() };
    hasher.update(nameless.to_yaml().map_err(std::io::Error::other)?.as_bytes());
    for path in files {
        hash_file(&mut hasher, path)
            .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    }
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

fn hash_file(hasher: &mut blake3::Hasher, path: &Path) -> std::io::Result<()> {
    if let Some(bytes) = files::builtin(path) {
        hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
        return Ok(());
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
    hasher.update(&length.to_le_bytes());
    if length <= WHOLE {
        hasher.update_reader(file)?;
        return Ok(());
    }
    hasher.update_reader((&mut file).take(END))?;
    file.seek(SeekFrom::End(-(END as i64)))?;
    hasher.update_reader(file)?;
    Ok(())
}
