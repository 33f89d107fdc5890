//! Model families against transformers 5.24: frames, prompt, ids and answer of each tiny checkpoint, from its video to
//! the last token.
//!
//! Small families are in `tests/golden/families`, the others beside the repository; if those are absent, the tests say
//! so and run the small ones only. Single images are those of `tests/golden/make_single_image_answers.py` and
//! `make_single_image_llava.py`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use candle_core::Tensor;
use serde_json::Value;
use vidense::connector::DciOptions;
use vidense::image::{Arithmetic, ImageProcessor, Preprocessor};
use vidense::pipeline::{Asking, EncodedVideo, encode_video};
use vidense::spec::{ConnectorPlan, GeneratePlan, Plan, PreprocessPlan, PromptPlan, SingleImagePlan};
use vidense::temporal::Temporal;
use vidense::text::MediumKind;
use vidense::units::Tokens;
use vidense::video::TimesSampling;
use vidense::video::{ReadLimits, Sample};
use vidense::vlm::{Blueprint, FrameRows, MediumRows, Placement, PromptIds, SingleImage, Vlm};
use vidense::weights::Hub;

use crate::harness::{ask, assert_close, every, ids, json, last_logits, read_video, repository, shared, tensors};

/// Of what starts from the same pixels.
const TOLERANCE: f32 = 1e-3;
/// The families with a video, or several images.
const CASES: [&str; 10] = [
    "smolvlm",
    "idefics3",
    "llava_onevision",
    "llava_qwen",
    "llava_next-mistral",
    "llava_next-llama",
    "vipllava",
    "llava",
    "llava-layers",
    "internvl",
];

/// Directories of the cases that are there.
fn cases() -> Vec<PathBuf> {
    let beside = shared("families");
    let find = |name: &&str| {
        let own = repository(&format!("tests/golden/families/{name}"));
        let other = beside.as_ref().map(|beside| beside.join(name));
        [Some(own), other].into_iter().flatten().find(|dir| dir.is_dir())
    };
    CASES.iter().filter_map(find).collect()
}

/// The run that a case is compared with: for families without a way of their own with videos the one with all frames at
/// one placeholder.
fn run_of(expected: &Value) -> Value {
    let one_mark = &expected["also"]["concatenated"];
    if one_mark.is_object() { one_mark.clone() } else { expected.clone() }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

/// The plan that does what the family's own processor does.
fn plan_of(dir: &Path, expected: &Value) -> Plan {
    let times = numbers(&expected["sampling"]["times"]);
    Plan {
        model: dir.to_str().unwrap().to_owned(),
        sample: Some(Sample::Times(TimesSampling { times, ..TimesSampling::default() })),
        temporal: Some(Temporal::Checkpoint),
        prompt: PromptPlan { template: Some("checkpoint".to_owned()), ..PromptPlan::default() },
        generate: GeneratePlan { max_new_tokens: 24, ..GeneratePlan::default() },
        ..Plan::default()
    }
}

fn blueprint(plan: &Plan) -> Blueprint {
    let hub = Hub::offline(Some(Path::new(&plan.model).join("towers")));
    Blueprint::read(&plan.model, &plan.overrides(), &hub).unwrap_or_else(|e| panic!("{}: {e}", plan.model))
}

fn png(path: &Path) -> image::RgbImage {
    image::open(path).unwrap().into_rgb8()
}

/// A model, its plan and what it saw of its video.
struct Seen {
    vlm: Vlm,
    plan: Plan,
    template: vidense::text::Template,
    video: EncodedVideo,
}

fn see(dir: &Path, expected: &Value) -> Seen {
    let plan = plan_of(dir, expected);
    let blueprint = blueprint(&plan);
    let plan = plan.resolved(&blueprint);
    let template = blueprint.named_template("checkpoint").unwrap();
    let vlm = Vlm::load(blueprint, &Placement::cpu(), &(Arc::new(|_| {}) as _)).unwrap();
    let video = encode_video(&vlm, &dir.join("video.mkv"), &plan, &|_| {}).unwrap();
    Seen { vlm, plan, template, video }
}

/// The ids of the prompt, with the placeholder for each visual token; of code that gives embeddings with -200 once.
fn prompt_ids(seen: &Seen, ids: &PromptIds, rows: FrameRows) -> Vec<u32> {
    let media = [MediumRows { rows, kind: MediumKind::Video }];
    let history = seen.vlm.prompt_history(ids, &media).unwrap().ids;
    if !history.is_empty() {
        return history;
    }
    let parts = ids.parts.iter().map(|part| part.text().cloned().unwrap_or(vec![-200i32 as u32]));
    parts.flatten().collect()
}

/// Of what starts from a video: frames that are resized as Pillow does it differ by a level here and there from those
/// that the library resized as torchvision does.
fn tolerance(vlm: &Vlm, expected: &Value) -> f32 {
    let is_pillow = vlm.preprocessor().config().arithmetic == Arithmetic::Pillow;
    let by_pillow = expected["preprocessing"]["filter"].as_str().is_some_and(|filter| filter.starts_with("PIL"));
    if is_pillow && !by_pillow { 10.0 * TOLERANCE } else { TOLERANCE }
}

#[test]
#[ignore = "slow"]
fn every_family_answers_as_transformers_does() {
    for dir in cases() {
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let expected = json(&dir.join("expected.json"));
        let tensor = tensors(&dir.join("expected.safetensors"));
        let run = run_of(&expected);
        let seen = see(&dir, &expected);
        let indices: Vec<u64> = seen.video.frames.iter().map(|frame| frame.index.0 as u64).collect();
        assert_eq!(serde_json::json!(indices), expected["sampling"]["indices"], "{name}: frames");
        let (n_visual, _) = seen.video.visual.dims2().unwrap();
        assert_eq!(n_visual as u64, run["n_visual_tokens"].as_u64().unwrap(), "{name}: visual tokens");

        let question = expected["question"].as_str().unwrap();
        let asking = Asking { vlm: &seen.vlm, template: &seen.template, plan: &seen.plan };
        let prompt = asking.conversation_about(&seen.video).ask(question).unwrap();
        let encoded = PromptIds::encode(&prompt, seen.vlm.tokenizer()).unwrap();
        let each = seen.video.temporal.frame_rows(seen.vlm.frame_tokens());
        let rows = FrameRows { n_visual, n_frames: indices.len(), each };
        assert_eq!(prompt_ids(&seen, &encoded, rows), ids(&run["input_ids"]), "{name}: prompt {prompt:?}");

        let (projected, tolerance) = (&tensor["projected.sample"], tolerance(&seen.vlm, &expected));
        assert_close(&format!("{name}: projected"), &every(&seen.video.visual, 0, 5), projected, tolerance);
        let embeds = seen.vlm.splice(&encoded, &seen.video.visual, rows).unwrap();
        let logits = last_logits(seen.vlm.language(), &embeds, 256);
        let one_mark = tensor.get("also.concatenated.logits.last");
        assert_close(&format!("{name}: logits"), &logits, one_mark.unwrap_or(&tensor["logits.last"]), tolerance);
        let answer = ask(asking, &seen.video, question).unwrap();
        assert_eq!(answer.token_ids, ids(&run["generated_ids"]), "{name}: answer {:?}", answer.text);
        assert_eq!(answer.visual_tokens, Tokens(n_visual), "{name}");
    }
}

#[test]
fn frames_are_prepared_as_the_library_prepares_them() {
    for dir in cases() {
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let expected = json(&dir.join("expected.json"));
        let tensor = tensors(&dir.join("expected.safetensors"));
        let preprocessor = Preprocessor::new(blueprint(&plan_of(&dir, &expected)).preprocess);
        let frame = png(&dir.join("frames/000.png"));
        let (values, width, height) = preprocessor.run(frame).unwrap();
        let found = Tensor::from_vec(values, (3, height as usize, width as usize), &candle_core::Device::Cpu).unwrap();
        let (found, expected) = match tensor.get("pixel_values.frame0") {
            Some(whole) => (found, whole),
            None => (every(&every(&found, 1, 8), 2, 8), &tensor["pixel_values.frame0.sample"]),
        };
        // Two levels of torchvision's kernels beside Pillow's, on a few values.
        let step = 2.0 / 255.0 / 0.22;
        let difference = (found - expected).unwrap().abs().unwrap();
        let largest = difference.max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(largest <= step * 1.01, "{name}: {largest}");
    }
}

/// Every frame level of families that resize with torchvision's kernels on u8 is the library's own.
#[test]
fn pixels_of_two_resizes_are_torchvisions() {
    for (name, class, section) in [
        ("smolvlm", ImageProcessor::SmolVlm, "video_processor"),
        ("idefics3", ImageProcessor::Idefics3, "image_processor"),
        ("llava_onevision", ImageProcessor::LlavaOnevision, "video_processor"),
        ("internvl", ImageProcessor::InternVl, "video_processor"),
    ] {
        let Some(dir) = cases().into_iter().find(|dir| dir.ends_with(name)) else { continue };
        let file = json(&dir.join("processor_config.json"));
        let reading = class.read(&file[section]).unwrap();
        assert!(reading.refused.is_empty() && reading.unknown.is_empty(), "{name}: {reading:?}");
        let found = Preprocessor::new(reading.config).image(png(&dir.join("frames/000.png"))).unwrap();
        let expected = png(&dir.join("frame0_resized.png"));
        assert_eq!(found.dimensions(), expected.dimensions(), "{name}");
        let differ = found.as_raw().iter().zip(expected.as_raw()).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 0, "{name}: of {} levels", expected.as_raw().len());
    }
}

/// A case's checkpoint with the JSON files of a download from the hub, where it has them.
fn as_download(dir: &Path) -> Option<tempfile::TempDir> {
    let files = std::fs::read_dir(dir.join("hub4x")).ok()?;
    let made = tempfile::tempdir().unwrap();
    for file in files.map(|file| file.unwrap().path()) {
        std::fs::copy(&file, made.path().join(file.file_name().unwrap())).unwrap();
    }
    for name in ["model.safetensors", "tokenizer.json"] {
        let _ = std::fs::remove_file(made.path().join(name));
        std::fs::copy(dir.join(name), made.path().join(name)).unwrap();
    }
    Some(made)
}

#[test]
fn downloads_of_the_hub_and_new_checkpoints_are_described_alike() {
    for dir in cases() {
        let expected = json(&dir.join("expected.json"));
        let Some(hub) = as_download(&dir) else { continue };
        let describe = |dir: &Path| {
            let plan = plan_of(dir, &expected);
            let blueprint = blueprint(&plan);
            let template = blueprint.named_template("checkpoint").unwrap();
            let asked = vidense::text::Conversation::new(template, None)
                .with_marks(blueprint.marks.clone(), vidense::text::Timestamps::Checkpoint)
                .with_frames(vidense::text::ShownFrames::unknown(3))
                .ask("Why?")
                .unwrap();
            let ids = PromptIds::encode(&asked, &blueprint.tokenizer).unwrap();
            let own = Plan { sample: None, ..plan }.resolved(&blueprint).sample();
            let tiles = |rule: &SingleImage| rule.packings().collect::<Vec<_>>();
            let views = blueprint.single_image.is_own().then(|| tiles(blueprint.single_image.usable().unwrap()));
            (blueprint.preprocess.clone(), asked, ids, own, views)
        };
        assert_eq!(describe(&dir), describe(hub.path()), "{}", dir.display());
    }
}

/// The frames of the family's own rule, with as many as the case has.
#[test]
fn each_family_samples_its_videos_itself() {
    for name in ["smolvlm", "llava_onevision", "llava_qwen", "internvl"] {
        let Some(dir) = cases().into_iter().find(|dir| dir.ends_with(name)) else { continue };
        let expected = json(&dir.join("expected.json"));
        let indices = expected["sampling"]["indices"].clone();
        let frames = indices.as_array().unwrap().len();
        let said = if name == "smolvlm" { "checkpoint".to_owned() } else { format!("checkpoint:frames={frames}") };
        let plan = Plan { sample: Some(said.parse().unwrap()), ..plan_of(&dir, &expected) };
        let plan = plan.clone().resolved(&blueprint(&plan));
        let (frames, _) = read_video(&dir.join("video.mkv"), &plan.frames(), &ReadLimits::default()).unwrap();
        let found: Vec<u64> = frames.iter().map(|frame| frame.index.0 as u64).collect();
        assert_eq!(serde_json::json!(found), indices, "{name}");
    }
}

/// The whole program, as a person runs it.
#[test]
fn the_command_line_gives_a_familys_own_answer() {
    let Some(dir) = cases().into_iter().next() else { return };
    let expected = json(&dir.join("expected.json"));
    let times: Vec<String> = numbers(&expected["sampling"]["times"]).iter().map(ToString::to_string).collect();
    let (video, sample) = (dir.join("video.mkv"), format!("times:times={}", times.join("+")));
    let ask =
        ["ask", video.to_str().unwrap(), expected["question"].as_str().unwrap(), "--model", dir.to_str().unwrap()];
    let own = ["--sample", &sample, "--temporal", "checkpoint", "--template", "checkpoint"];
    let arguments = [&ask[..], &own, &["--max-new-tokens", "24", "--device", "cpu", "--json"]].concat();
    let output = Command::new(env!("CARGO_BIN_EXE_vidense")).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ids(&answer["token_ids"]), ids(&run_of(&expected)["generated_ids"]));
}

/// The families that take a single image by AnyRes.
const OF_SINGLE_IMAGES: [&str; 2] = ["llava_next", "llava_onevision"];

fn golden(name: &str) -> PathBuf {
    repository(&format!("tests/golden/families/{name}"))
}

/// A checkpoint whose JSON files `change` is told of by name, in a directory of its own.
fn changed(dir: &Path, change: &dyn Fn(&str, &mut Value)) -> tempfile::TempDir {
    let made = tempfile::tempdir().unwrap();
    for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        std::fs::copy(&path, made.path().join(&name)).unwrap();
        if ["config.json", "processor_config.json"].contains(&name.as_str()) {
            let mut file = json(&path);
            change(&name, &mut file);
            std::fs::write(made.path().join(&name), file.to_string()).unwrap();
        }
    }
    made
}

/// A plan that leaves everything to the checkpoint.
fn own_plan(dir: &Path) -> Plan {
    let generate = GeneratePlan { max_new_tokens: 24, ..GeneratePlan::default() };
    Plan { model: dir.to_str().unwrap().to_owned(), generate, ..Plan::default() }
}

fn load(plan: &Plan) -> (Vlm, Plan, vidense::text::Template) {
    let blueprint = blueprint(plan);
    let (plan, template) = (plan.clone().resolved(&blueprint), blueprint.template.clone());
    (Vlm::load(blueprint, &Placement::cpu(), &(Arc::new(|_| {}) as _)).unwrap(), plan, template)
}

#[test]
#[ignore = "slow"]
fn single_images_are_answered_as_transformers_answers_them() {
    for family in OF_SINGLE_IMAGES {
        let dir = golden(family);
        let (expected, tensor) = (json(&dir.join("single_image.json")), tensors(&dir.join("single_image.safetensors")));
        let question = expected["question"].as_str().unwrap();
        for (name, expected_image) in expected["images"].as_object().unwrap() {
            let bound = &expected_image["vision_aspect_ratio"];
            let copy = changed(&dir, &|_, file| {
                if bound.is_string() {
                    file["vision_aspect_ratio"] = bound.clone();
                }
            });
            let (name, image) = (format!("{family} {name}"), dir.join("single_image").join(name));
            let (vlm, plan, template) = load(&own_plan(copy.path()));
            assert_eq!(plan.single_image, Some(SingleImagePlan::AnyRes));
            let video = encode_video(&vlm, &image, &plan, &|_| {}).unwrap();
            let n_visual = video.visual.dim(0).unwrap();
            assert_eq!(n_visual as u64, expected_image["n_visual_tokens"].as_u64().unwrap(), "{name}: visual tokens");

            let (asking, rows) =
                (Asking { vlm: &vlm, template: &template, plan: &plan }, FrameRows::together(n_visual));
            let prompt = asking.conversation_about(&video).ask(question).unwrap();
            let encoded = PromptIds::encode(&prompt, vlm.tokenizer()).unwrap();
            let media = [MediumRows { rows, kind: MediumKind::Image }];
            let mut history = vlm.prompt_history(&encoded, &media).unwrap().ids;
            let placeholder = expected_image["placeholder_id"].as_u64().unwrap() as u32;
            assert_eq!(history.iter().filter(|&&id| id == placeholder).count(), n_visual, "{name}: placeholders");
            history.dedup_by(|a, b| a == b && *a == placeholder);
            assert_eq!(history, ids(&expected_image["input_ids"]), "{name}: prompt {prompt:?}");

            let of = |kind: &str| &tensor[&format!("{kind}.{}", name.split_once(' ').unwrap().1)];
            let step = expected["step"].as_u64().unwrap() as u32;
            assert_close(&format!("{name}: packed"), &every(&video.visual, 0, step), of("packed"), TOLERANCE);
            assert_close(&format!("{name}: mean"), &video.visual.mean(0).unwrap(), of("mean"), TOLERANCE);
            let embeds = vlm.splice(&encoded, &video.visual, rows).unwrap();
            let logits = last_logits(vlm.language(), &embeds, 512);
            assert_close(&format!("{name}: logits"), &logits, of("logits"), TOLERANCE);
            let answer = ask(asking, &video, question).unwrap();
            assert_eq!(answer.token_ids, ids(&expected_image["generated_ids"]), "{name}: answer {:?}", answer.text);
            assert_eq!(answer.visual_tokens, Tokens(n_visual), "{name}");

            // The file itself is the same input as a directory that holds it alone.
            let file = encode_video(&vlm, &image.join("image.png"), &plan, &|_| {}).unwrap();
            assert_eq!((file.temporal, file.visual.dims()), (video.temporal, video.visual.dims()), "{name}");
            assert_close(&format!("{name}: file"), &file.visual, &video.visual, 0.0);
        }
    }
}

#[test]
fn a_sampled_frame_and_what_a_plan_chooses_itself_are_no_single_image() {
    let (vlm, plan, _) = load(&Plan { temporal: Some(Temporal::Checkpoint), ..own_plan(&golden("llava_next")) });
    let image = golden("llava_next").join("single_image/wide");
    let of = |path: &Path, plan: &Plan| encode_video(&vlm, path, plan, &|_| {}).unwrap();
    let any_res = of(&image, &plan);
    assert!(matches!(any_res.temporal, Temporal::AnyRes(_)) && any_res.visual.dim(0).unwrap() == 1164);
    // One frame of a video, and two places of one image.
    let one = Plan { sample: Some(Sample::uniform(1)), ..plan.clone() };
    let frame = of(&golden("smolvlm").join("video.mkv"), &one);
    assert_eq!((frame.temporal, frame.visual.dim(0).unwrap()), (Temporal::Concat, 576));
    let twice = Plan { sample: Some("uniform:frames=2,short=repeat_last".parse().unwrap()), ..plan.clone() };
    assert_eq!(of(&image, &twice).visual.dim(0).unwrap(), 2 * 576);
    // The base view alone where the plan says so; of AnyRes it is the beginning.
    let as_frame = of(&image, &Plan { single_image: Some(SingleImagePlan::Frame), ..plan.clone() });
    assert_eq!(as_frame.visual.dims(), [576, 64]);
    let base = any_res.visual.narrow(0, 0, 576).unwrap();
    // Frames are resized as Pillow does it.
    assert_close("base view", &as_frame.visual, &base, 10.0 * TOLERANCE);
    for plan in [
        Plan { temporal: Some(Temporal::Concat), ..own_plan(&golden("llava_next")) },
        Plan { preprocess: PreprocessPlan::Squeeze, ..own_plan(&golden("llava_next")) },
        Plan { connector: ConnectorPlan::None, ..own_plan(&golden("llava_next")) },
    ] {
        assert_eq!(plan.clone().resolved(&blueprint(&plan)).single_image, Some(SingleImagePlan::Frame));
    }
    // A family without such a way has nothing to say of it.
    let other = own_plan(&golden("smolvlm"));
    assert_eq!(other.clone().resolved(&blueprint(&other)).single_image, None);
}

#[test]
fn any_res_that_a_plan_makes_impossible_is_refused_with_its_rule() {
    let dir = golden("llava_next");
    let any_res = |plan: Plan| Plan { single_image: Some(SingleImagePlan::AnyRes), ..plan };
    for (plan, rule) in [
        (any_res(own_plan(&golden("smolvlm"))), "the model is of the family smolvlm"),
        (any_res(Plan { preprocess: PreprocessPlan::Pad, ..own_plan(&dir) }), "`preprocess` would not be obeyed"),
        (any_res(Plan { connector: ConnectorPlan::Sti, ..own_plan(&dir) }), "are not the patches alone"),
        (
            any_res(Plan { connector: ConnectorPlan::Dci(DciOptions { window: 3 }), ..own_plan(&dir) }),
            "a window goes over frames",
        ),
    ] {
        let blueprint = blueprint(&plan);
        let problems = plan.resolved(&blueprint).check_model(&blueprint).problems;
        let found = problems.iter().find(|problem| problem.path == ["single_image"]).expect(rule);
        assert!(found.rule.contains(rule) && found.hint.as_deref() == Some("frame"), "{found:?}");
    }
    // A strategy of the plan's own is for videos then.
    let both = any_res(Plan { temporal: Some(Temporal::D2), ..own_plan(&dir) });
    let blueprint = blueprint(&both);
    assert_eq!(both.resolved(&blueprint).check_model(&blueprint).problems, []);
}

#[test]
fn a_checkpoint_whose_any_res_is_not_understood_refuses_single_images_and_no_video() {
    let image = golden("llava_next").join("single_image/square");
    let refused = |dir: &Path| {
        let (vlm, plan, _) = load(&own_plan(dir));
        let video = golden("smolvlm").join("video.mkv");
        let one = Plan { sample: Some(Sample::uniform(1)), ..plan.clone() };
        assert!(encode_video(&vlm, &video, &one, &|_| {}).is_ok(), "{}", dir.display());
        let error = encode_video(&vlm, &image, &plan, &|_| {}).unwrap_err().to_string();
        let hint = "hint: single_image: frame (--single-image frame)";
        assert!(error.starts_with("single_image any_res: ") && error.ends_with(hint), "{error}");
        assert!(
            encode_video(&vlm, &image, &Plan { single_image: Some(SingleImagePlan::Frame), ..plan }, &|_| {}).is_ok()
        );
        error
    };
    let set = |dir: &str, files: &'static [&str], key: &'static str, value: Value| {
        changed(&golden(dir), &|name, file| {
            let section = if name == "processor_config.json" && key != "vision_aspect_ratio" {
                &mut file["image_processor"]
            } else {
                file
            };
            if files.contains(&name) {
                section[key] = value.clone();
            }
        })
    };
    let (both, pinpoints) = (&["config.json", "processor_config.json"][..], "image_grid_pinpoints");
    for (dir, rule) in [
        (set("llava_next", both, pinpoints, serde_json::json!([[336, 500]])), "has 336 x 500 (height, width)"),
        (set("llava_next", both, pinpoints, "(1x1)".into()), "expected a list of pairs"),
        (
            set("llava_next", &["config.json"], pinpoints, serde_json::json!([[336, 672]])),
            "differ from those of config.json",
        ),
        (
            set(
                "llava_onevision",
                &["processor_config.json"],
                "size",
                serde_json::json!({"height": 336, "width": 336}),
            ),
            "size and crop_size differ from the tower's 384 x 384",
        ),
        (set("llava_onevision", both, "vision_aspect_ratio", "anyres".into()), "expected anyres_max_N"),
    ] {
        let error = refused(dir.path());
        assert!(error.contains(rule), "{error}");
    }
    // LLaVA's own spelling asks for it as well, here without saying how views are merged.
    let original = tempfile::tempdir().unwrap();
    let llava = repository("tests/golden/checkpoints/llava-bin");
    for name in ["pytorch_model.bin", "tokenizer.model"] {
        std::fs::copy(llava.join(name), original.path().join(name)).unwrap();
    }
    let mut config = json(&llava.join("config.json"));
    (config["image_aspect_ratio"], config["mm_vision_tower"]) =
        ("anyres".into(), llava.join("tower").to_str().unwrap().into());
    std::fs::write(original.path().join("config.json"), config.to_string()).unwrap();
    assert!(refused(original.path()).contains("views of a single image are merged by spatial_unpad only"));
}

/// The checkpoint of LLaVA-OneVision in LLaVA's own spelling, with its tower's description beside it.
fn in_llavas_spelling(dir: &Path, aspect: &Value, pinpoints: &Value) -> tempfile::TempDir {
    let made = tempfile::tempdir().unwrap();
    let names = [
        ("language_model.model.", "model."),
        ("multi_modal_projector.linear_1.", "model.mm_projector.0."),
        ("multi_modal_projector.linear_2.", "model.mm_projector.2."),
        ("vision_tower.", "model.vision_tower.vision_tower."),
        ("image_newline", "model.image_newline"),
    ];
    let renamed = |(name, tensor): (String, Tensor)| {
        let (theirs, new) = names.iter().find(|(theirs, _)| name.starts_with(theirs)).unwrap();
        (name.replacen(theirs, new, 1), tensor)
    };
    let weights: std::collections::HashMap<_, _> =
        tensors(&dir.join("model.safetensors")).into_iter().map(renamed).collect();
    candle_core::safetensors::save(&weights, made.path().join("model.safetensors")).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(dir.join(name), made.path().join(name)).unwrap();
    }
    let write = |path: PathBuf, file: &Value| std::fs::write(path, file.to_string()).unwrap();
    let parts = json(&dir.join("config.json"));
    // LLaVA's code deletes the last layer of a tower, which the weights are without.
    let mut tower = parts["vision_config"].clone();
    tower["num_hidden_layers"] = 4.into();
    let tower_dir = made.path().join("tower");
    std::fs::create_dir(&tower_dir).unwrap();
    write(tower_dir.join("config.json"), &tower);
    let mut config = parts["text_config"].clone();
    config["rope_theta"] = 1e6.into();
    for key in ["rope_parameters", "layer_types", "dtype"] {
        config.as_object_mut().unwrap().remove(key);
    }
    for (key, value) in [
        ("architectures", serde_json::json!(["LlavaQwenForCausalLM"])),
        ("model_type", "llava_qwen".into()),
        ("mm_vision_tower", tower_dir.to_str().unwrap().into()),
        ("mm_projector_type", "mlp2x_gelu".into()),
        ("mm_patch_merge_type", "spatial_unpad".into()),
        ("image_aspect_ratio", aspect.clone()),
        ("image_grid_pinpoints", pinpoints.clone()),
    ] {
        config[key] = value;
    }
    write(made.path().join("config.json"), &config);
    made
}

#[test]
fn single_images_in_llavas_spelling_are_those_of_its_code() {
    let dir = golden("llava_onevision");
    let expected = json(&dir.join("single_image_llava.json"));
    let tensor = tensors(&dir.join("single_image_llava.safetensors"));
    let step = expected["step"].as_u64().unwrap() as u32;
    for (name, run) in expected["runs"].as_object().unwrap() {
        let checkpoint = in_llavas_spelling(&dir, &run["image_aspect_ratio"], &run["image_grid_pinpoints"]);
        let (vlm, plan, _) = load(&own_plan(checkpoint.path()));
        let image = dir.join("single_image").join(run["image"].as_str().unwrap());
        let visual = encode_video(&vlm, &image, &plan, &|_| {}).unwrap().visual;
        assert_eq!(visual.dim(0).unwrap() as u64, run["n_visual_tokens"].as_u64().unwrap(), "{name}: visual tokens");
        assert_close(
            &format!("{name}: packed"),
            &every(&visual, 0, step),
            &tensor[&format!("packed.{name}")],
            TOLERANCE,
        );
        let mean = visual.mean(0).unwrap();
        assert_close(&format!("{name}: mean"), &mean, &tensor[&format!("mean.{name}")], TOLERANCE);
    }
}

/// The whole program: one image against a context that it does not fit, then an archive of images and a video, decoded
/// in a process of its own and found in the cache again.
#[test]
fn the_command_line_budgets_answers_and_keeps_single_images() {
    let place = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
        command.current_dir(place.path()).env("VIDENSE_CACHE", place.path().join("cache")).env("HF_HUB_OFFLINE", "1");
        command.args(arguments).output().unwrap()
    };
    let image = |name: &str| golden("llava_next").join("single_image").join(name).to_str().unwrap().to_owned();
    let small = changed(&golden("llava_next"), &|name, file| {
        if name == "config.json" {
            file["text_config"]["max_position_embeddings"] = 1000.into();
        }
    });
    let over = run(&["ask", &image("wide"), "Why?", "--model", small.path().to_str().unwrap(), "--device", "cpu"]);
    let message = String::from_utf8(over.stderr).unwrap();
    let words = "single_image any_res: 576 tokens of the base view + 12 rows x (48 tokens + 1 newline) of 1 x 2 tiles = \
                 1164 visual tokens + ";
    assert!(message.contains(words) && message.contains("hint: single_image: frame"), "{message}");

    let expected = json(&golden("llava_next").join("single_image.json"));
    let pipeline = format!("model: {}\ndevice: cpu\n", golden("llava_next").display());
    std::fs::write(place.path().join("p.yaml"), pipeline).unwrap();
    let video = golden("smolvlm").join("video.mkv");
    let inputs = [image("wide"), format!("{}/image.png", image("tall")), video.to_str().unwrap().to_owned()];
    let lines: Vec<String> =
        inputs.iter().map(|path| serde_json::json!({ "video": path }).to_string() + "\n").collect();
    std::fs::write(place.path().join("list.jsonl"), lines.concat()).unwrap();
    for (out, n_found) in [("first", 0), ("second", 3)] {
        let question = expected["question"].as_str().unwrap();
        let batch = ["batch", "p.yaml", "list.jsonl", "--isolate", "--cache", "kept", "--out", out, "-q", question];
        let done = run(&[&batch[..], &["--set", "generate.max_new_tokens=24"]].concat());
        let told = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success() && told.contains(&format!("{n_found} videos found in the cache")), "{told}");
        let answers = std::fs::read_to_string(place.path().join(out).join("answers.jsonl")).unwrap();
        let answer = |input: &str| {
            let line = answers.lines().find(|line| line.contains(&format!("{input:?}"))).unwrap();
            serde_json::from_str::<Value>(line).unwrap()
        };
        for (input, name) in [(&inputs[0], "wide"), (&inputs[1], "tall")] {
            let (found, expected) = (answer(input), &expected["images"][name]);
            assert_eq!(found["visual_tokens"], expected["n_visual_tokens"], "{out} {name}");
            assert_eq!(ids(&found["token_ids"]), ids(&expected["generated_ids"]), "{out} {name}");
        }
        assert_eq!(answer(&inputs[2])["visual_tokens"], 8 * 288);
    }
}

#[test]
fn a_question_cannot_move_the_place_of_a_single_image() {
    let (vlm, plan, template) = load(&own_plan(&golden("llava_onevision")));
    let video = encode_video(&vlm, &golden("llava_onevision").join("single_image/wide"), &plan, &|_| {}).unwrap();
    let asking = Asking { vlm: &vlm, template: &template, plan: &plan };
    for mark in ["<image>", "<video>"] {
        let error = ask(asking, &video, &format!("Is this {mark} it?")).unwrap_err().to_string();
        assert!(error.contains(&format!("`{mark}`")), "{error}");
    }
}
