//! AnyRes keys of `config.json` and of the processor's files: resolutions of single images, and the bound on their
//! tiles.
//!
//! Reference: `process_anyres_image` and `get_anyres_image_grid_shape` of LLaVA-NeXT's code (`mm_utils.py`), and the
//! configurations of transformers 5.24.

use serde_json::Value;

use super::JsonFile;
use crate::error::Error;

/// AnyRes keys. The model reads them from `config.json`, the processor from its own files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnyResKeys {
    /// Resolutions, in the file's order (`image_grid_pinpoints`).
    pub resolutions: Resolutions,
    /// Largest number of tiles whose tokens are kept (`anyres_max_9`), of families that bound them.
    pub max_tiles: Option<usize>,
}

/// Resolutions as a file writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolutions {
    /// Width and height in pixels; transformers' files have the height first.
    Pixels(Vec<(u32, u32)>),
    /// Columns and rows of tiles, from the first to the last pair inclusive: `(1x1),...,(6x6)`.
    Tiles((u32, u32), (u32, u32)),
}

impl Resolutions {
    /// Returns width and height in pixels, for tiles of this side.
    pub(crate) fn in_pixels(&self, side: u32) -> Vec<(u32, u32)> {
        match self {
            Self::Pixels(sizes) => sizes.clone(),
            &Self::Tiles(first, last) => (first.0..=last.0)
                .flat_map(|columns| (first.1..=last.1).map(move |rows| (columns * side, rows * side)))
                .collect(),
        }
    }
}

/// Largest number of tiles along a side.
const MAX_TILES: u32 = 64;
/// Key of the resolutions.
const PINPOINTS: &str = "image_grid_pinpoints";
/// Largest side in pixels that a file may give.
const MAX_SIDE: u64 = 1 << 14;
/// Default of `vision_aspect_ratio`.
const RATIO: &str = "anyres_max_9";

impl AnyResKeys {
    /// Returns the defaults of LLaVA-NeXT's classes: five resolutions, no bound.
    pub fn llava_next() -> Self {
        let sizes = vec![(672, 336), (336, 672), (672, 672), (336, 1008), (1008, 336)];
        Self { resolutions: Resolutions::Pixels(sizes), max_tiles: None }
    }

    /// Returns the defaults of LLaVA-OneVision's classes: 1 to 6 tiles of 384 along each side, tokens of nine tiles.
    pub fn llava_onevision() -> Self {
        let side = |n: u32| 384 * n;
        let sizes = (1..=6).flat_map(|rows| (1..=6).map(move |columns| (side(columns), side(rows)))).collect();
        Self { resolutions: Resolutions::Pixels(sizes), max_tiles: Some(9) }
    }

    /// Reads the keys of a file, with `self` as defaults. `image_grid_pinpoints` and `vision_aspect_ratio` may be in
    /// two files.
    ///
    /// # Errors
    /// [`Error`] naming the key that is unusable.
    pub fn read(self, pinpoints: &JsonFile, ratio: Option<&JsonFile>) -> Result<Self, Error> {
        let resolutions = match pinpoints.get(PINPOINTS) {
            None => self.resolutions,
            Some(value) => {
                let heights_first = pairs(value).ok_or_else(|| {
                    pinpoints.wrong(PINPOINTS, "expected a list of pairs, height and width in pixels from 1 to 16384")
                })?;
                Resolutions::Pixels(heights_first.into_iter().map(|(height, width)| (width, height)).collect())
            }
        };
        let max_tiles = match (self.max_tiles, ratio) {
            (Some(_), Some(file)) => Some(max_tiles(file)?),
            (bound, _) => bound,
        };
        Ok(Self { resolutions, max_tiles })
    }

    /// Reads the keys of a `config.json` in LLaVA's spelling with `image_aspect_ratio: anyres` or `anyres_max_9`.
    ///
    /// # Errors
    /// [`Error`] naming the key that is unusable, or that asks for another merging of views.
    pub(crate) fn read_llava(file: &JsonFile) -> Result<Self, Error> {
        const MERGE: &str = "mm_patch_merge_type";
        if file.string(MERGE)? != Some("spatial_unpad") {
            return Err(file.wrong(MERGE, "views of a single image are merged by spatial_unpad only"));
        }
        let ratio = file.string("image_aspect_ratio")?.unwrap_or_default();
        let max_tiles = match ratio {
            "anyres" => None,
            bounded => Some(bound(bounded).ok_or_else(|| {
                file.wrong("image_aspect_ratio", "expected anyres, or anyres_max_N with a number of tiles N from 1")
            })?),
        };
        let value = file.get(PINPOINTS);
        let wrong = || {
            let rule =
                "expected a list of pairs, width and height in pixels from 1 to 16384, or tiles as in (1x1),...,(6x6)";
            file.wrong(PINPOINTS, rule)
        };
        let resolutions = match value.and_then(Value::as_str) {
            Some(text) => tiles(text),
            None => value.and_then(pairs).map(Resolutions::Pixels),
        };
        Ok(Self { resolutions: resolutions.ok_or_else(wrong)?, max_tiles })
    }
}

/// Parses the first and the last pair of a text such as `(1x1),...,(6x6)`, or a list of pairs written as text.
fn tiles(text: &str) -> Option<Resolutions> {
    if !text.contains('x') {
        return serde_json::from_str(&text.replace('(', "[").replace(')', "]"))
            .ok()
            .as_ref()
            .and_then(pairs)
            .map(Resolutions::Pixels);
    }
    let (first, last) = text.trim().split_once(",...,")?;
    let pair = |text: &str| {
        let (columns, rows) = text.trim().strip_prefix('(')?.strip_suffix(')')?.split_once('x')?;
        let count = |text: &str| text.parse::<u32>().ok().filter(|count| (1..=MAX_TILES).contains(count));
        Some((count(columns)?, count(rows)?))
    };
    let (first, last) = (pair(first)?, pair(last)?);
    (first.0 <= last.0 && first.1 <= last.1).then_some(Resolutions::Tiles(first, last))
}

/// Reads a list of pairs of sides.
fn pairs(value: &Value) -> Option<Vec<(u32, u32)>> {
    let side = |value: &Value| value.as_u64().filter(|side| (1..=MAX_SIDE).contains(side)).map(|side| side as u32);
    let pair = |value: &Value| match value.as_array().map(Vec::as_slice) {
        Some([first, second]) => Some((side(first)?, side(second)?)),
        _ => None,
    };
    value.as_array()?.iter().map(pair).collect()
}

fn max_tiles(file: &JsonFile) -> Result<usize, Error> {
    const KEY: &str = "vision_aspect_ratio";
    let ratio = file.string(KEY)?.unwrap_or(RATIO);
    bound(ratio).ok_or_else(|| file.wrong(KEY, "expected anyres_max_N, with a number of tiles N from 1"))
}

/// Returns the number of tiles of `anyres_max_9`.
fn bound(ratio: &str) -> Option<usize> {
    ratio.strip_prefix("anyres_max_")?.parse().ok().filter(|&bound| bound > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(json: &Value) -> JsonFile {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.json");
        std::fs::write(&path, json.to_string()).expect("ours");
        JsonFile::read(&path).expect("an object")
    }

    fn read(json: &Value) -> Result<AnyResKeys, String> {
        let file = file(json);
        AnyResKeys::llava_onevision().read(&file, Some(&file)).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_that_a_file_leaves_out_are_those_of_the_class() {
        let own = read(&json!({})).expect("nothing is wrong");
        let sizes = own.resolutions.in_pixels(384);
        assert_eq!((sizes.len(), own.max_tiles), (36, Some(9)));
        // Heights go up last: 384 x 384, then 384 high and 768 wide.
        assert_eq!(sizes[..2], [(384, 384), (768, 384)]);
        let file = json!({"image_grid_pinpoints": [[384, 768]], "vision_aspect_ratio": "anyres_max_4"});
        assert_eq!(
            read(&file),
            Ok(AnyResKeys { resolutions: Resolutions::Pixels(vec![(768, 384)]), max_tiles: Some(4) })
        );
    }

    #[test]
    fn llavas_spelling_has_the_width_first_and_counts_tiles() {
        let read = |pinpoints: Value, ratio: &str| {
            let json = json!({"image_grid_pinpoints": pinpoints, "image_aspect_ratio": ratio,
                "mm_patch_merge_type": "spatial_unpad"});
            AnyResKeys::read_llava(&file(&json)).map_err(|error| error.to_string())
        };
        let next = read(json!([[336, 672], [672, 336]]), "anyres").expect("LLaVA-1.6's");
        assert_eq!((next.resolutions.in_pixels(336), next.max_tiles), (vec![(336, 672), (672, 336)], None));
        // As Python prints the same list.
        assert_eq!(read(json!("[(336, 672), (672, 336)]"), "anyres"), Ok(next));
        let tiles = read(json!("(1x1),...,(2x3)"), "anyres_max_9").expect("LLaVA-OneVision's");
        let sizes = [(4, 4), (4, 8), (4, 12), (8, 4), (8, 8), (8, 12)];
        assert_eq!((tiles.resolutions.in_pixels(4), tiles.max_tiles), (sizes.to_vec(), Some(9)));
        for (pinpoints, ratio, rule) in [
            (json!("(1x1)"), "anyres", "or tiles as in (1x1),...,(6x6)"),
            (json!("(2x2),...,(1x1)"), "anyres", "or tiles as in (1x1),...,(6x6)"),
            (json!(null), "anyres", "or tiles as in (1x1),...,(6x6)"),
            (json!([[336, 672]]), "anyres_min_2", "expected anyres, or anyres_max_N"),
        ] {
            let error = read(pinpoints, ratio).expect_err("refused");
            assert!(error.contains(rule), "{error}");
        }
        let flat = AnyResKeys::read_llava(&file(&json!({"image_aspect_ratio": "anyres"}))).expect_err("no merge type");
        assert!(flat.to_string().contains("mm_patch_merge_type: nothing"), "{flat}");
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
