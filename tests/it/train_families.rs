//! A new projector over checkpoints in Hugging Face's format: trained for a connector, written beside the frozen
//! tensors as stored, resumed bit-identically, and loaded by `ask` and `inspect` without further flags.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use vidense::connector::{ConnectorKind, DciOptions};
use vidense::error::Error;
use vidense::spec::{ConnectorPlan, Plan};
use vidense::text::{Conversation, PartPosition, ShownFrames, Timestamps};
use vidense::train::{EarlierRun, Output, RUN_DIR, Recipe, TrainEvent, TrainResources, train};
use vidense::vlm::{Blueprint, FrameRows, Overrides, Placement, PromptIds, Vlm};
use vidense::weights::Hub;

use crate::harness::{self, last_logits, repository, shared, tensors};

/// Families in the repository, then those that stand beside it.
const FAMILIES: [&str; 6] = ["smolvlm", "llava_onevision", "idefics3", "internvl", "vipllava", "llava_next-mistral"];

fn families() -> Vec<PathBuf> {
    let beside = shared("families");
    let find = |name: &&str| {
        let own = repository(&format!("tests/golden/families/{name}"));
        let other = beside.as_ref().map(|beside| beside.join(name));
        [Some(own), other].into_iter().flatten().find(|dir| dir.is_dir())
    };
    FAMILIES.iter().filter_map(find).collect()
}

pub(crate) fn smolvlm() -> PathBuf {
    repository("tests/golden/families/smolvlm")
}

/// Stage 1 on a few images of the shapes world.
pub(crate) const STAGE: &str = "
  - name: one
    stage: connector
    frozen: [vision_tower, language_model]
    data: { shapes_world: { seed: 1, images: 4, questions: [color] } }
    steps: 8
    batch: 4
    optimizer: { learning_rate: 1.0e-2 }
    schedule: { warmup: 1 }
";
/// Stage 2.
const INSTRUCT: &str = "
  - name: two
    stage: instruct
    frozen: [vision_tower]
    data: { shapes_world: { seed: 1, images: 4, questions: [color] } }
    steps: 4
    batch: 4
    micro_batch: 2
";

pub(crate) fn text(model: &str, stages: &str) -> String {
    format!("seed: 3\ncheckpoint_every: 2\nmodel: {model}\nstages:\n{stages}")
}

pub(crate) fn over(from: &Path, connector: &str) -> String {
    format!("{{ checkpoint: {}, projector: new, connector: {connector} }}", from.display())
}

pub(crate) fn recipe(dir: &Path, text: &str) -> Recipe {
    let path = dir.join("recipe.yaml");
    std::fs::write(&path, text).unwrap();
    Recipe::read(&path).unwrap()
}

pub(crate) fn run(
    recipe: &Recipe,
    out: &Path,
    listen: &mut dyn FnMut(&TrainEvent) -> Result<(), Error>,
) -> Result<(), Error> {
    let features = out.join(RUN_DIR);
    let output = Output { model: out, features: &features, dtype: DType::F32, earlier: EarlierRun::Resume };
    let resources = TrainResources { device: &Device::Cpu, hub: &Hub::offline(None) };
    train(recipe, output, resources, listen)
}

/// The loss of each step of a run.
fn losses(recipe: &Recipe, out: &Path) -> Vec<f64> {
    let mut losses = Vec::new();
    run(recipe, out, &mut |event| {
        if let TrainEvent::Step(step) = event {
            losses.push(step.loss);
        }
        Ok(())
    })
    .unwrap_or_else(|error| panic!("{}: {error}", out.display()));
    losses
}

fn is_projector(name: &str) -> bool {
    ["multi_modal_projector", "modality_projection", "mm_projector"].iter().any(|part| name.contains(part))
}

fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    let bits = |tensor: &Tensor| {
        let values = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        values.into_iter().map(f64::to_bits).collect::<Vec<_>>()
    };
    a.dtype() == b.dtype() && a.dims() == b.dims() && bits(a) == bits(b)
}

fn blueprint(dir: &Path) -> Blueprint {
    Blueprint::read(dir.to_str().unwrap(), &Overrides::default(), &Hub::offline(None)).unwrap()
}

fn vidense(command: &str, arguments: &[&str]) -> Value {
    let mut run = assert_cmd::Command::new(env!("CARGO_BIN_EXE_vidense"));
    let output = run.arg(command).args(arguments).assert().success().get_output().clone();
    assert!(output.stderr.is_empty(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Answers about a clip, with no flag that names a connector.
fn answers(model: &Path) -> Value {
    let clip = repository("samples/three_shapes.mp4");
    let fixed = ["--max-new-tokens", "3", "--frames", "2", "--json", "--model"];
    vidense("ask", &[&fixed[..], &[model.to_str().unwrap(), clip.to_str().unwrap(), "How many?"]].concat())
}

#[test]
#[ignore = "slow"]
fn every_family_learns_each_connector_and_answers_with_it() {
    for from in families() {
        let asked = answers(&from)["visual_tokens"].clone();
        // Those beside the repository learn one connector, which covers their names and prompts.
        let connectors: &[&str] = if from.starts_with(repository("tests")) { &["sci", "dci"] } else { &["dci"] };
        for &connector in connectors {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("out");
            let losses = losses(&recipe(dir.path(), &text(&over(&from, connector), STAGE)), &out);
            let name = format!("{} {connector}", from.display());
            assert!(losses[7] < 0.9 * losses[0], "{name}: {losses:?}");

            let (before, after) = (tensors(&from.join("model.safetensors")), tensors(&out.join("model.safetensors")));
            for (tensor, stored) in before.iter().filter(|(tensor, _)| !is_projector(tensor)) {
                assert!(same_bits(stored, &after[tensor]), "{name}: {tensor} is frozen, and moved");
            }
            let mut new: Vec<&String> = after.keys().filter(|tensor| is_projector(tensor)).collect();
            new.sort();
            let parts = ["0.bias", "0.weight", "2.bias", "2.weight"].map(|part| format!("model.mm_projector.{part}"));
            assert_eq!(new, parts.iter().collect::<Vec<_>>(), "{name}");

            let (trained, own) = (blueprint(&out), blueprint(&from));
            assert_eq!(trained.connector.kind().to_string(), connector, "{name}");
            let width = 3 * own.feature_selection().width(&own.tower);
            assert_eq!(after["model.mm_projector.0.weight"].dims()[1], width, "{name}");
            assert_eq!(trained.frame_tokens(), own.frame_tokens(), "{name}");
            let answer = answers(&out);
            assert_eq!(answer["visual_tokens"], asked, "{name}");
        }
    }
}

#[test]
fn connectors_that_keep_the_width_are_trained_too() {
    for (connector, stored) in [("none", ConnectorKind::None), ("sti", ConnectorKind::Sti)] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let losses = losses(&recipe(dir.path(), &text(&over(&smolvlm(), connector), STAGE)), &out);
        assert!(losses[7] < 0.9 * losses[0], "{connector}: {losses:?}");
        assert_eq!(blueprint(&out).connector.kind(), stored);
        // 64 tokens a frame, and with STI 8 of each of two earlier states.
        let each = if connector == "sti" { 80 } else { 64 };
        assert_eq!(answers(&out)["visual_tokens"], 2 * each, "{connector}");
    }
}

#[test]
#[ignore = "slow"]
fn sti_over_one_vision_puts_frames_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let (from, out) = (repository("tests/golden/families/llava_onevision"), dir.path().join("out"));
    losses(&recipe(dir.path(), &text(&over(&from, "sti"), STAGE)), &out);
    let own = blueprint(&from).frame_tokens().count;
    assert_eq!(answers(&out)["visual_tokens"], 2 * (own + 2 * (own / 8)));
}

#[test]
fn a_projector_that_is_kept_is_trained_under_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let model = format!("{{ from: {}, feature_scale: 0.5 }}", smolvlm().display());
    losses(&recipe(dir.path(), &text(&model, STAGE)), &out);
    let (before, after) = (tensors(&smolvlm().join("model.safetensors")), tensors(&out.join("model.safetensors")));
    assert_eq!(before.len(), after.len());
    for (name, tensor) in &before {
        assert_eq!(same_bits(tensor, &after[name]), !is_projector(name), "{name}");
    }
    answers(&out);
}

/// The loss of `answer` behind `question` about an image, as a model that was written computes it.
fn loss_of(model: &Path, image: &Path, (question, answer): (&str, &str)) -> f64 {
    let vlm = Vlm::load(blueprint(model), &Placement::cpu(), &(Arc::new(|_| {}) as _)).unwrap();
    let pixels = vlm.prepare(image::open(image).unwrap().into_rgb8()).unwrap();
    let visual = vlm.project(&vlm.fuse(&pixels).unwrap()).unwrap().squeeze(0).unwrap();
    let conversation = Conversation::new(vlm.template().clone(), None).with_frames(ShownFrames::unknown(1));
    let prompt = conversation.with_marks(vlm.marks().clone(), Timestamps::None).ask(question).unwrap();
    let ids = PromptIds::encode(&prompt, vlm.tokenizer()).unwrap();
    let n_visual = visual.dim(0).unwrap();
    let rows = FrameRows { n_visual, n_frames: 1, each: Some(n_visual) };
    let mut embeds = vlm.splice(&ids, &visual, rows).unwrap();
    let answer = vlm.tokenizer().encode(answer, PartPosition::Later).unwrap();
    assert!(answer.len() > 1, "an answer and its end");
    let mut loss = 0.0;
    for &id in &answer {
        let logits = last_logits(vlm.language(), &embeds, 256).flatten_all().unwrap();
        let log_sum = logits.exp().unwrap().sum_all().unwrap().log().unwrap().to_scalar::<f32>().unwrap();
        loss += f64::from(log_sum - logits.get(id as usize).unwrap().to_scalar::<f32>().unwrap());
        embeds = Tensor::cat(&[&embeds, &vlm.language().embed(&[id]).unwrap()], 0).unwrap();
    }
    loss / answer.len() as f64
}

#[test]
fn what_is_written_gives_the_logits_of_training() {
    for (name, reply) in [("smolvlm", " red<end_of_utterance>"), ("llava_onevision", "red<|im_end|>")] {
        let from = repository(&format!("tests/golden/families/{name}"));
        let dir = tempfile::tempdir().unwrap();
        let picture = dir.path().join("a.png");
        ::image::RgbImage::from_fn(64, 48, |x, y| ::image::Rgb([x as u8 * 4, y as u8 * 5, 30])).save(&picture).unwrap();
        let records = json!([{"id": 1, "image": "a.png", "conversations": [
            {"from": "human", "value": "<image>\nWhat color is it?"}, {"from": "gpt", "value": "red"}]}]);
        std::fs::write(dir.path().join("data.json"), records.to_string()).unwrap();
        let stage = |steps: usize| {
            format!(
                "  - {{ name: one, stage: connector, frozen: [vision_tower, language_model], steps: {steps}, batch: 1, \
                 data: {{ llava: {{ json: data.json, images: . }} }}, schedule: {{ warmup: 1 }} }}"
            )
        };
        // The loss of step 3 is that of the weights after 3 steps.
        let text = |steps| text(&over(&from, "dci"), &stage(steps));
        let (three, four) = (dir.path().join("three"), dir.path().join("four"));
        let constant = |steps| text(steps).replace("warmup: 1", "warmup: 1, plateau: 1.0");
        losses(&recipe(dir.path(), &constant(3)), &three);
        let in_training = losses(&recipe(dir.path(), &constant(4)), &four)[3];
        let found = loss_of(&three, &picture, ("What color is it?", reply));
        // Features are kept in f16.
        assert!((found - in_training).abs() < 2e-3 * in_training, "{name}: {found}, in training {in_training}");
    }
}

#[test]
#[ignore = "slow"]
fn a_run_over_smolvlm_that_stops_anywhere_ends_with_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), &text(&over(&smolvlm(), "dci"), &[STAGE, INSTRUCT].concat()));
    let written = |out: &Path| std::fs::read(out.join("model.safetensors")).unwrap();
    let whole = dir.path().join("whole");
    losses(&recipe, &whole);
    for (i, stops) in [vec![1], vec![4], vec![3, 6], vec![11]].into_iter().enumerate() {
        let out = dir.path().join(format!("stopped-{i}"));
        for stop in stops {
            let mut n_steps = 0;
            let stopped = run(&recipe, &out, &mut |event| {
                n_steps += usize::from(matches!(event, TrainEvent::Step(_)));
                let error = || Error::invalid("stop");
                if n_steps >= stop { Err(error()) } else { Ok(()) }
            });
            assert!(stopped.is_err());
        }
        losses(&recipe, &out);
        assert!(written(&out) == written(&whole), "run {i} differs");
    }
    let (before, after) = (tensors(&smolvlm().join("model.safetensors")), tensors(&whole.join("model.safetensors")));
    let moved = |part: &str| {
        let of_part: Vec<&String> = before.keys().filter(|name| name.starts_with(part)).collect();
        assert!(!of_part.is_empty(), "{part}");
        of_part.iter().filter(|name| !same_bits(&before[**name], &after[**name])).count()
    };
    assert_eq!(moved("model.vision_model."), 0);
    assert!(moved("model.text_model.") > 10 && moved("lm_head.") == 1);
}

#[test]
#[ignore = "slow"]
fn a_run_over_smolvlm_that_is_killed_ends_with_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.yaml");
    let stages = [STAGE, INSTRUCT].concat().replace("steps: 8", "steps: 40");
    std::fs::write(&path, text(&over(&smolvlm(), "sci"), &stages)).unwrap();
    let train = |out: &Path| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vidense"));
        command.arg("train").arg(&path).args(["--device", "cpu", "--out"]).arg(out);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command
    };
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    assert!(train(&whole).status().unwrap().success());
    for n_lines in [3, 20] {
        let mut child = train(&killed).spawn().unwrap();
        let metrics = killed.join(RUN_DIR).join("metrics.jsonl");
        let has_come = || std::fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= n_lines);
        while !has_come() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(train(&killed).status().unwrap().success());
    let written = |out: &Path| std::fs::read(out.join("model.safetensors")).unwrap();
    assert!(written(&killed) == written(&whole));
}

/// A copy of the tiny SmolVLM with other values of its `config.json`; without weights where it is to be refused.
fn changed(dir: &Path, changes: &Value) -> PathBuf {
    let to = dir.join("changed");
    std::fs::create_dir_all(&to).unwrap();
    for name in ["generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(smolvlm().join(name), to.join(name)).unwrap();
    }
    let mut config = harness::json(&smolvlm().join("config.json"));
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(to.join("config.json"), config.to_string()).unwrap();
    to
}

#[test]
#[ignore = "slow"]
fn a_head_that_is_tied_to_the_embeddings_stays_tied() {
    // With and without a second copy of the table in the file.
    for keeps_copy in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let from = changed(dir.path(), &json!({"tie_word_embeddings": true}));
        let mut weights = tensors(&smolvlm().join("model.safetensors"));
        let table = weights["model.text_model.embed_tokens.weight"].clone();
        weights.remove("lm_head.weight");
        if keeps_copy {
            weights.insert("lm_head.weight".to_owned(), table.copy().unwrap());
        }
        candle_core::safetensors::save(&weights, from.join("model.safetensors")).unwrap();
        let out = dir.path().join("out");
        losses(&recipe(dir.path(), &text(&over(&from, "sci"), &[STAGE, INSTRUCT].concat())), &out);
        let after = tensors(&out.join("model.safetensors"));
        assert!(!after.contains_key("lm_head.weight"));
        assert!(!same_bits(&table, &after["model.text_model.embed_tokens.weight"]));
        answers(&out);
    }
}

#[test]
fn what_cannot_be_trained_over_is_refused_before_weights_are_read() {
    let scale = json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}});
    for (changes, more, message) in [
        (json!({"model_type": "qwen3_vl"}), "", "model_type"),
        (scale, "", "FP8 cannot be trained"),
        (json!({"scale_factor": 5}), "", "squares of 5 x 5 patches"),
        (json!({}), ", vision_tower: { from: x }", "model.vision_tower: the checkpoint holds its own tower"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let from = changed(dir.path(), &changes);
        let model = over(&from, "dci").replace(" }", &format!("{more} }}"));
        let out = dir.path().join("out");
        let error = run(&recipe(dir.path(), &text(&model, STAGE)), &out, &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn the_old_projector_does_not_take_a_wider_connector() {
    let dir = tempfile::tempdir().unwrap();
    let model = over(&smolvlm(), "dci").replace("projector: new, ", "");
    let mut n_events = 0;
    let error = run(&recipe(dir.path(), &text(&model, STAGE)), &dir.path().join("out"), &mut |_| {
        n_events += 1;
        Ok(())
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("dci makes tokens of 1536 channels, but the checkpoint's projector takes 512"), "{error}");
    assert!(error.contains("hint: model.projector: new") && n_events == 0, "{error}");
    let twice = over(&smolvlm(), "dci").replace(" }", ", config: { mm_dense_connector_type: sci } }");
    std::fs::write(dir.path().join("twice.yaml"), text(&twice, STAGE)).unwrap();
    let error = Recipe::read(&dir.path().join("twice.yaml")).unwrap_err().to_string();
    assert!(error.contains("connector and config.mm_dense_connector_type are the same key"), "{error}");
}

#[test]
fn the_hint_of_a_refused_connector_is_a_recipe_that_works() {
    let dir = tempfile::tempdir().unwrap();
    for connector in [ConnectorPlan::Sci, ConnectorPlan::Dci(DciOptions::default())] {
        let model = smolvlm().to_str().unwrap().to_owned();
        let plan = Plan { model: model.clone(), connector, ..Plan::default() };
        let blueprint = Blueprint::read(&model, &plan.overrides(), &Hub::offline(None)).unwrap();
        let kind = blueprint.connector.kind();
        let problem = plan.check_model(&blueprint).problems.remove(0);
        let hint = problem.hint.unwrap();
        let begin = hint.find("with model: ").unwrap() + "with model: ".len();
        let suggested = &hint[begin..begin + hint[begin..].find('}').unwrap() + 1];
        let out = dir.path().join(kind.to_string());
        losses(&recipe(dir.path(), &text(suggested, STAGE)), &out);
        let trained = Blueprint::read(out.to_str().unwrap(), &plan.overrides(), &Hub::offline(None)).unwrap();
        assert_eq!(plan.check_model(&trained).problems, [], "{hint}");
        let mut inspect = assert_cmd::Command::new(env!("CARGO_BIN_EXE_vidense"));
        let shown = inspect.arg("inspect").arg(&out).assert().success().get_output().stdout.clone();
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains(&format!("connector   {kind}: ")) && shown.contains("mlp2x_gelu"), "{shown}");
    }
}
