//! The keys of AnyRes: the resolutions of single images, and the bound on their tokens.

use serde_json::Value;

use super::JsonFile;
use crate::vlm::ModelError;

/// The keys of AnyRes, which stand in `config.json` and in the processor's files: the model goes by the former, the
/// processor by the latter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnyResKeys {
    /// Width and height of each resolution, in the file's order (`image_grid_pinpoints`, which has the height first).
    pub resolutions: Vec<(u32, u32)>,
    /// Tiles whose tokens are kept at most (`vision_aspect_ratio: anyres_max_9`), of families that bound them.
    pub max_tiles: Option<usize>,
}

/// A larger side is a mistake in a file.
const MAX_SIDE: u64 = 1 << 14;
/// `vision_aspect_ratio` where no file has it.
const RATIO: &str = "anyres_max_9";

impl AnyResKeys {
    /// LLaVA-NeXT's classes: five resolutions, no bound.
    pub fn llava_next() -> Self {
        let resolutions = vec![(672, 336), (336, 672), (672, 672), (336, 1008), (1008, 336)];
        Self { resolutions, max_tiles: None }
    }

    /// LLaVA-OneVision's classes: 1 to 6 tiles of 384 along each side, the tokens of nine tiles.
    pub fn llava_onevision() -> Self {
        let side = |n: u32| 384 * n;
        let resolutions = (1..=6).flat_map(|rows| (1..=6).map(move |columns| (side(columns), side(rows)))).collect();
        Self { resolutions, max_tiles: Some(9) }
    }

    /// The keys of a file over these defaults. `image_grid_pinpoints` and `vision_aspect_ratio` may stand in two files.
    ///
    /// # Errors
    /// [`ModelError`] naming the key that is unusable.
    pub fn read(self, pinpoints: &JsonFile, ratio: Option<&JsonFile>) -> Result<Self, ModelError> {
        const PINPOINTS: &str = "image_grid_pinpoints";
        let resolutions = match pinpoints.get(PINPOINTS) {
            None => self.resolutions,
            Some(value) => resolutions(value).ok_or_else(|| {
                pinpoints.wrong(PINPOINTS, "expected a list of pairs, height and width in pixels from 1 to 16384")
            })?,
        };
        let max_tiles = match (self.max_tiles, ratio) {
            (Some(_), Some(file)) => Some(max_tiles(file)?),
            (bound, _) => bound,
        };
        Ok(Self { resolutions, max_tiles })
    }
}

fn resolutions(value: &Value) -> Option<Vec<(u32, u32)>> {
    let side = |value: &Value| value.as_u64().filter(|side| (1..=MAX_SIDE).contains(side)).map(|side| side as u32);
    let pair = |value: &Value| match value.as_array().map(Vec::as_slice) {
        Some([height, width]) => Some((side(width)?, side(height)?)),
        _ => None,
    };
    value.as_array()?.iter().map(pair).collect()
}

fn max_tiles(file: &JsonFile) -> Result<usize, ModelError> {
    const KEY: &str = "vision_aspect_ratio";
    let ratio = file.string(KEY)?.unwrap_or(RATIO);
    let bound = ratio.strip_prefix("anyres_max_").and_then(|bound| bound.parse().ok());
    let wrong = || file.wrong(KEY, "expected anyres_max_N, with a number of tiles N from 1");
    bound.filter(|&bound| bound > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(json: &Value) -> Result<AnyResKeys, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.json");
        std::fs::write(&path, json.to_string()).expect("ours");
        let file = JsonFile::read(&path).expect("an object");
        AnyResKeys::llava_onevision().read(&file, Some(&file)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_file_leaves_out_is_the_classes_own() {
        let own = read(&json!({})).expect("nothing is wrong");
        assert_eq!((own.resolutions.len(), own.max_tiles), (36, Some(9)));
        // Heights go up last: 384 x 384, then 384 high and 768 wide.
        assert_eq!(own.resolutions[..2], [(384, 384), (768, 384)]);
        let file = json!({"image_grid_pinpoints": [[384, 768]], "vision_aspect_ratio": "anyres_max_4"});
        assert_eq!(read(&file), Ok(AnyResKeys { resolutions: vec![(768, 384)], max_tiles: Some(4) }));
    }

    #[test]
    fn unusable_values_are_named() {
        for (file, rule) in [
            (json!({"image_grid_pinpoints": [[384]]}), "image_grid_pinpoints: [[384]]"),
            (json!({"image_grid_pinpoints": [[384, 0]]}), "image_grid_pinpoints: [[384,0]]"),
            (json!({"image_grid_pinpoints": "(1x1),...,(6x6)"}), "expected a list of pairs, height and width"),
            (json!({"vision_aspect_ratio": "anyres"}), "expected anyres_max_N"),
            (json!({"vision_aspect_ratio": "anyres_max_0"}), "expected anyres_max_N"),
        ] {
            let error = read(&file).expect_err("refused");
            assert!(error.contains(rule), "{error}");
        }
    }
}
