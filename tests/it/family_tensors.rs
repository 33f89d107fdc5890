//! Tiny checkpoints of each family from their directories to tensors, beside what transformers 5.24 computes: tower,
//! projected tokens, the logits of the first answer token, 24 greedy ids.
//!
//! The input ids are the expected ones: prompts have tests of their own. The cases stand beside the repository; where they
//! are absent these tests say so and pass.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use tempfile::TempDir;
use vidense::engine::{EngineConfig, PromptPart, Visual};
use vidense::temporal::{OneVision, Temporal};
use vidense::vlm::{Blueprint, Overrides, Placement, VideoPath, Vlm};
use vidense::weights::Hub;

use crate::harness::{assert_close, every, generate, ids, json, largest, last_logits, shared, tensors};

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

/// A case, loaded from its weights and descriptions, its frames prepared by one resize to the tower's square.
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
        if path.is_file() && !file.starts_with("expected") && !file.contains("processor") {
            std::fs::copy(&path, dir.path().join(file)).unwrap();
        }
    }
    let expected = json(&from.join("expected.json"));
    let (mean, std) = (&expected["preprocessing"]["mean"], &expected["preprocessing"]["std"]);
    let side = image::image_dimensions(from.join("frame0_resized.png")).unwrap().0;
    let processor = json!({
        "image_processor_type": "SiglipImageProcessor", "size": {"height": side, "width": side}, "resample": 3,
        "image_mean": mean, "image_std": std, "do_center_crop": false,
    });
    std::fs::write(dir.path().join("preprocessor_config.json"), processor.to_string()).unwrap();
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

/// What the tower hands on of a frame: class token dropped, layers on the channel axis, before squares become tokens.
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

/// The parts of a prompt whose placeholders, one for each visual token or one for all of them, are `placeholder`.
fn parts(all: &[i64], placeholder: i64, visual: &Tensor) -> Vec<PromptPart> {
    let n_places = all.iter().filter(|&&id| id == placeholder).count();
    let each = visual.dim(0).unwrap() / n_places;
    let mut at = 0;
    let runs = all.chunk_by(|a, b| (*a == placeholder) == (*b == placeholder));
    let part = |run: &[i64]| {
        if run[0] != placeholder {
            return PromptPart::Ids(run.iter().map(|&id| id as u32).collect());
        }
        let rows = visual.narrow(0, at, run.len() * each).unwrap();
        at += run.len() * each;
        PromptPart::Visual(Visual::new(rows))
    };
    runs.map(part).collect()
}

fn embeds(vlm: &Vlm, parts: &[PromptPart]) -> Tensor {
    let part = |part: &PromptPart| match part {
        PromptPart::Ids(ids) => vlm.language().embed(ids).unwrap(),
        PromptPart::Visual(visual) => visual.embeds().clone(),
    };
    Tensor::cat(&parts.iter().map(part).collect::<Vec<_>>(), 0).unwrap()
}

/// Families whose frames one resize prepares; the cuts and the two passes of the others are tested with prompts.
#[test]
fn logits_and_ids_are_those_of_transformers() {
    let Some(families) = shared("families") else { return };
    for name in ["llava_next-mistral", "llava_next-llama", "llava_onevision", "llava_qwen", "internvl"] {
        let case = load(&families, name);
        let golden = tensors(&case.from.join("expected.safetensors"));
        let vlm = &case.vlm;
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(case.from.join("frames")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let mut fold = case.temporal().begin_with(vlm.frame_tokens(), vlm.newline().cloned());
        for path in paths {
            let pixels = vlm.prepare(image::open(path).unwrap().into_rgb8()).unwrap();
            fold.push(&vlm.project(&vlm.fuse(&pixels).unwrap()).unwrap()).unwrap();
        }
        let visual = fold.finish().unwrap();
        assert_eq!(visual.dim(0).unwrap() as u64, case.expected["n_visual_tokens"].as_u64().unwrap(), "{name}");
        let difference = largest(&(every(&visual, 0, 5) - &golden["projected.sample"]).unwrap());
        println!("{name}: projected tokens of all frames differ by {difference:e}");
        let all: Vec<i64> =
            case.expected["input_ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
        let parts = parts(&all, case.expected["placeholder_id"].as_i64().unwrap(), &visual);
        let logits = last_logits(vlm.language(), &embeds(vlm, &parts), 512);
        assert_close(&format!("{name}: logits"), &logits, &golden["logits.last"], TOLERANCE);
        let found = generate(vlm.language(), parts, 24, EngineConfig::with_kv_bytes(1 << 28));
        assert_eq!(found, ids(&case.expected["generated_ids"]), "{name}");
    }
}
