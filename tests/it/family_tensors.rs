//! Tiny checkpoints of each family from given pixels to tensors, against transformers 5.24: output of the tower, and
//! projected tokens in the order of the prompt. `families.rs` compares from videos to answers.
//!
//! The cases are beside the repository; if they are absent, this test says so and passes.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde_json::Value;
use tempfile::TempDir;
use vidense::temporal::{OneVision, Temporal};
use vidense::vlm::{Blueprint, Overrides, Placement, VideoPath, Vlm};
use vidense::weights::Hub;

use crate::harness::{assert_close, every, json, shared, tensors};

const CASES: [&str; 10] = [
    "llava",
    "llava-layers",
    "llava_next-mistral",
    "llava_next-llama",
    "vipllava",
    "llava_onevision",
    "llava_qwen",
    "smolvlm",
    "idefics3",
    "internvl",
];
const TOLERANCE: f32 = 1e-3;

/// A case, loaded from a copy of its files.
struct Case {
    _dir: TempDir,
    from: PathBuf,
    vlm: Vlm,
    expected: Value,
    /// Means and deviations of the pixels.
    colours: [Vec<f32>; 2],
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn load(families: &Path, name: &str) -> Case {
    let (from, dir) = (families.join(name), tempfile::tempdir().unwrap());
    for entry in std::fs::read_dir(&from).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        if path.is_file() && !file.starts_with("expected") && !file.ends_with(".mkv") {
            std::fs::copy(&path, dir.path().join(file)).unwrap();
        }
    }
    let expected = json(&from.join("expected.json"));
    let (mean, std) = (&expected["preprocessing"]["mean"], &expected["preprocessing"]["std"]);
    let hub = Hub::offline(Some(from.join("towers")));
    let blueprint = Blueprint::read(dir.path().to_str().unwrap(), &Overrides::default(), &hub).unwrap();
    assert_eq!(blueprint.warnings, [""; 0], "{name}");
    let vlm = Vlm::load(blueprint, &Placement::cpu(), &(Arc::new(|_| {}) as _)).unwrap();
    assert_eq!(vlm.warnings(), [""; 0], "{name}");
    Case { _dir: dir, from, vlm, colours: [numbers(mean), numbers(std)], expected }
}

impl Case {
    /// The pixels of a frame that is prepared but for its levels: `(1, 3, S, S)`.
    fn pixels(&self, path: &Path) -> Tensor {
        let picture = image::open(path).unwrap().into_rgb8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let [mean, std] = &self.colours;
        let values =
            (0..3).flat_map(|c| picture.pixels().map(move |pixel| (f32::from(pixel[c]) / 255.0 - mean[c]) / std[c]));
        Tensor::from_iter(values, &Device::Cpu).unwrap().reshape((1, 3, height, width)).unwrap()
    }

    /// The projected tokens of a frame as they are spliced in, a newline row aside: `(n, H)`.
    fn visual(&self, pixels: &Tensor) -> Tensor {
        let frame = self.vlm.frame_tokens();
        let mut fold = self.temporal().begin(frame);
        fold.push(&self.vlm.project(&self.vlm.fuse(pixels).unwrap()).unwrap()).unwrap();
        fold.finish().unwrap()
    }

    fn temporal(&self) -> Temporal {
        match self.vlm.video_path() {
            VideoPath::OneVision => Temporal::OneVision(OneVision::default()),
            _ => Temporal::Concat,
        }
    }
}

/// Output of the tower for a frame: class token dropped, layers on the channel axis, before squares become tokens.
fn tower(case: &Case, pixels: &Tensor) -> Tensor {
    let (vlm, mut last) = (&case.vlm, None);
    if !["smolvlm", "idefics3", "internvl"].contains(&vlm.family().name) {
        return vlm.fuse(pixels).unwrap().squeeze(0).unwrap();
    }
    vlm.tower()
        .hidden_states(pixels, &mut |_, state| {
            last = Some(vlm.tower().output(state)?);
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    let n_class = vlm.tower().config().n_class_tokens();
    let state = last.unwrap().squeeze(0).unwrap();
    state.narrow(0, n_class, state.dim(0).unwrap() - n_class).unwrap()
}

#[test]
fn towers_and_projected_tokens_are_those_of_transformers() {
    let Some(families) = shared("families") else { return };
    for name in CASES {
        let case = load(&families, name);
        let golden = tensors(&case.from.join("expected.safetensors"));
        let pixels = case.pixels(&case.from.join("frame0_resized.png"));
        let tower = every(&tower(&case, &pixels), 0, 7);
        assert_close(&format!("{name}: tower"), &tower, &golden["tower.frame0.sample"], TOLERANCE);
        let visual = case.visual(&pixels);
        assert_eq!(visual.dim(0).unwrap() as u64, case.expected["tokens_per_frame"].as_u64().unwrap(), "{name}");
        let sample = every(&visual, 0, 5);
        let wanted = golden["projected.sample"].narrow(0, 0, sample.dim(0).unwrap()).unwrap();
        assert_close(&format!("{name}: projected"), &sample, &wanted, TOLERANCE);
    }
}
