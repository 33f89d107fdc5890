//! Training runs of a tiny model: resumed and frozen weights bit-identical, released layout, orderly stops.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use candle_core::{DType, Device};
use vidense::error::{Error, Kind};
use vidense::train::{EarlierRun, Output, RUN_DIR, Recipe, TrainEvent, TrainResources, train};
use vidense::weights::Hub;

use crate::harness::{repository, tensors};

/// A model of a few thousand weights, in two stages of six steps.
const TINY: &str = r#"
seed: 5
checkpoint_every: 2
model:
  config:
    model_type: llava
    vocab_size: 320
    hidden_size: 16
    intermediate_size: 24
    num_hidden_layers: 2
    num_attention_heads: 4
    num_key_value_heads: 2
    max_position_embeddings: 512
    bos_token_id: 1
    eos_token_id: 2
    mm_projector_type: mlp2x_gelu
    mm_vision_select_layer: -2
    mm_dense_connector_type: dci
    image_aspect_ratio: pad
    prompt_format: "<s>USER: <image>\n{question} ASSISTANT: {answer}</s>"
  vision_tower:
    config: { model_type: clip_vision_model, image_size: 32, patch_size: 8, hidden_size: 16, intermediate_size: 32,
              num_hidden_layers: 3, num_attention_heads: 4, hidden_act: quick_gelu }
  tokenizer_vocabulary: 320
stages:
  - name: tower
    stage: tower
    frozen: [projector, language_model]
    data: { shapes_world: { seed: 1, images: 24 } }
    probes: [color, texture, count]
    steps: 6
    batch: 4
    micro_batch: 2
    simple_share: 0.5
    optimizer: { rule: muon }
  - name: answers
    stage: instruct
    frozen: [vision_tower]
    data: { shapes_world: { seed: 2, images: 24 } }
    steps: 6
    batch: 4
    micro_batch: 1
    stretch: { gap: 0.5, max_gap: 50, pooled: 0.5, repeated: 0.25, repetitions: [2, 3] }
"#;

/// A stage 1 and a stage 2 on top of `samples/mini`, on records in LLaVA's format.
fn on_mini(json: &str) -> String {
    let mini = repository("samples/mini");
    format!(
        "seed: 3\nmodel: {{ from: {}, feature_scale: 0.5 }}\nstages:\n\
         - {{ name: one, stage: connector, frozen: [vision_tower, language_model], steps: 3, batch: 2, data: {{ llava: {{ json: {json}, images: . }} }} }}\n",
        mini.display()
    )
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn recipe(dir: &Path, text: &str) -> Recipe {
    Recipe::read(&write(dir, "recipe.yaml", text)).unwrap()
}

fn run(recipe: &Recipe, out: &Path, listen: &mut dyn FnMut(&TrainEvent) -> Result<(), Error>) -> Result<(), Error> {
    let features = out.join(RUN_DIR);
    let output = Output { model: out, features: &features, dtype: DType::F16, earlier: EarlierRun::Resume };
    let resources = TrainResources { device: &Device::Cpu, hub: &Hub::offline(None) };
    train(recipe, output, resources, listen)
}

fn written(out: &Path) -> [Vec<u8>; 3] {
    ["model.safetensors", "vision_tower/model.safetensors", "tokenizer.json"]
        .map(|name| std::fs::read(out.join(name)).unwrap())
}

#[test]
#[ignore = "slow"]
fn a_run_that_stops_anywhere_ends_with_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), TINY);
    let whole = dir.path().join("whole");
    run(&recipe, &whole, &mut |_| Ok(())).unwrap();
    let stopped = || Error::invalid("stop");
    // Between checkpoints and right after one, in either stage, and one run that is stopped at every single step.
    for stops in [vec![1], vec![2], vec![7], vec![3, 9], (1..12).collect()] {
        let out = dir.path().join(format!("stopped-{}", stops.len() * 100 + stops[0]));
        let mut n_stopped = 0;
        for &stop in &stops {
            let mut n_steps = 0;
            let result = run(&recipe, &out, &mut |event| {
                n_steps += usize::from(matches!(event, TrainEvent::Step(_)));
                if n_steps >= stop { Err(stopped()) } else { Ok(()) }
            });
            n_stopped += usize::from(result.is_err());
        }
        run(&recipe, &out, &mut |_| Ok(())).unwrap();
        assert!(n_stopped > 0);
        assert!(written(&out) == written(&whole), "stopped after {stops:?} steps, the weights differ");
    }
}

#[test]
fn a_finished_run_takes_up_stages_that_are_added() {
    let dir = tempfile::tempdir().unwrap();
    let both = recipe(dir.path(), TINY);
    let (whole, grown) = (dir.path().join("whole"), dir.path().join("grown"));
    run(&both, &whole, &mut |_| Ok(())).unwrap();
    run(&Recipe { stages: both.stages[..1].to_vec(), ..both.clone() }, &grown, &mut |_| Ok(())).unwrap();
    let mut resumed = None;
    run(&both, &grown, &mut |event| {
        if let TrainEvent::Resumed { stage, step } = event {
            resumed = Some((stage.clone(), *step));
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(resumed, Some(("answers".to_owned(), 0)));
    assert!(written(&grown) == written(&whole));
}

#[test]
#[ignore = "slow"]
fn a_run_that_is_killed_ends_with_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "recipe.yaml", &TINY.replace("steps: 6", "steps: 30"));
    let train = |out: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
        command.args([
            "train".as_ref(),
            path.as_os_str(),
            "--device".as_ref(),
            "cpu".as_ref(),
            "--out".as_ref(),
            out.as_os_str(),
        ]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command
    };
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    assert!(train(&whole).status().unwrap().success());
    for n_lines in [5, 20, 40] {
        let mut child = train(&killed).spawn().unwrap();
        let metrics = killed.join(RUN_DIR).join("metrics.jsonl");
        let has_come = || std::fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= n_lines);
        while !has_come() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(train(&killed).status().unwrap().success());
    assert!(written(&killed) == written(&whole));
    // Each step is told once, whatever was lost and done again.
    let steps = |out: &Path| {
        let text = std::fs::read_to_string(out.join(RUN_DIR).join("metrics.jsonl")).unwrap();
        let step = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            (line["stage"].to_string(), line["step"].as_u64(), line["loss"].as_f64())
        };
        text.lines().map(step).collect::<Vec<_>>()
    };
    assert_eq!(steps(&killed), steps(&whole));
}

#[test]
fn what_is_frozen_stays_to_the_bit_and_what_is_not_moves() {
    let dir = tempfile::tempdir().unwrap();
    ::image::RgbImage::from_pixel(30, 20, ::image::Rgb([200, 30, 30])).save(dir.path().join("a.png")).unwrap();
    let records = r#"[{"id": 1, "image": "a.png", "conversations": [
        {"from": "human", "value": "<image>\nWhat color is it?"}, {"from": "gpt", "value": "red"}]}]"#;
    write(dir.path(), "data.json", records);
    let out = dir.path().join("out");
    run(&recipe(dir.path(), &on_mini("data.json")), &out, &mut |_| Ok(())).unwrap();

    let mini = repository("samples/mini");
    let name = "vision_tower/model.safetensors";
    assert!(std::fs::read(out.join(name)).unwrap() == std::fs::read(mini.join(name)).unwrap());
    let (before, after) = (tensors(&mini.join("model.safetensors")), tensors(&out.join("model.safetensors")));
    let bits = |tensor: &candle_core::Tensor| {
        let halves = tensor.to_dtype(DType::F16).unwrap().flatten_all().unwrap().to_vec1::<half::f16>().unwrap();
        halves.into_iter().map(half::f16::to_bits).collect::<Vec<_>>()
    };
    assert_eq!(before.len(), after.len());
    let (mut n_frozen, mut n_moved) = (0, 0);
    for (name, tensor) in &before {
        let is_same = bits(tensor) == bits(&after[name]);
        if name.starts_with("model.mm_projector") {
            n_moved += usize::from(!is_same);
        } else {
            assert!(is_same, "{name} is frozen, and moved");
            n_frozen += 1;
        }
    }
    assert!(n_frozen > 30 && n_moved >= 3, "{n_frozen} frozen, {n_moved} moved");
}

#[test]
fn what_is_written_is_loaded_by_ask() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    run(&recipe(dir.path(), TINY), &out, &mut |_| Ok(())).unwrap();
    let mut ask = assert_cmd::Command::new(env!("CARGO_BIN_EXE_vidense"));
    let clip = repository("samples/three_shapes.mp4");
    ask.args(["ask", "--max-new-tokens", "3", "--json", "--model"]).arg(&out).arg(clip).arg("How many?");
    let output = ask.assert().success().get_output().clone();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // 16 patches, 8 frames, pooled by 2.
    assert_eq!(answer["visual_tokens"], 64);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn recipes_that_cannot_be_followed_say_why() {
    let dir = tempfile::tempdir().unwrap();
    for (text, message) in [
        (TINY.replace("batch: 4", "bacth: 4"), "unknown field `bacth`"),
        (TINY.replace("rule: muon", "rule: sgd"), "unknown variant `sgd`"),
        (TINY.replace("seed: 5\n", ""), "missing field `seed`"),
        (TINY.replace("micro_batch: 1", "micro_batch: 9"), "stage answers: micro_batch 9 is more than batch 4"),
        (TINY.replace("frozen: [vision_tower]", "frozen: []"), "stage answers: frozen: vision_tower must be named"),
        (
            TINY.replace("probes: [color, texture, count]", "probes: []"),
            "stage tower: probes: a tower stage needs some",
        ),
        (TINY.replace("  tokenizer_vocabulary: 320\n", ""), "tokenizer_vocabulary"),
        (TINY.replace("seed: 2, images", "seed: 2, questions: [], images"), "shapes_world.questions: there are none"),
        (TINY.replace("seed: 2, images", "seed: 2, questions: [mood], images"), "unknown variant `mood`"),
        (TINY.replace("checkpoint_every: 2", "checkpoint_every: 0"), "checkpoint_every: 0 steps"),
        ("{".to_owned(), "recipe.yaml"),
    ] {
        let error = Recipe::read(&write(dir.path(), "recipe.yaml", &text)).expect_err(message).to_string();
        assert!(error.contains(message) && error.contains("recipe.yaml"), "{error}");
    }
    assert!(Recipe::read(&dir.path().join("none.yaml")).unwrap_err().to_string().contains("none.yaml"));
}

#[test]
fn the_recipes_of_the_samples_can_be_followed() {
    let recipes = std::fs::read_dir(repository("samples/recipes")).unwrap().map(|entry| entry.unwrap().path());
    let names: Vec<String> = recipes.map(|path| Recipe::read(&path).unwrap().stages[0].name.clone()).collect();
    assert!(names.len() >= 2, "{names:?}");
}

#[test]
fn data_that_cannot_be_learned_from_is_named_before_training() {
    let dir = tempfile::tempdir().unwrap();
    for (records, message) in [
        (r#"[{"id": 1, "image": "gone.png", "conversations": []}]"#, "gone.png"),
        (
            r#"[{"id": "x7", "image": "recipe.yaml", "conversations": []}]"#,
            "record 0 (id \"x7\"): the conversation is empty",
        ),
        (
            r#"[{"id": 1, "image": "recipe.yaml", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}]"#,
            "recipe.yaml",
        ),
    ] {
        write(dir.path(), "data.json", records);
        let recipe = recipe(dir.path(), &on_mini("data.json"));
        let error = run(&recipe, &dir.path().join("out"), &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_at_a_good_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let wild = TINY.replace(
        "stretch:",
        "optimizer: { learning_rate: 1.0e30, clip: 1.0e30 }\n    schedule: { warmup: 1 }\n    stretch:",
    );
    let out = dir.path().join("out");
    let error = run(&recipe(dir.path(), &wild), &out, &mut |_| Ok(())).unwrap_err();
    assert!(error.kind() == Kind::NotFinite, "{error}");
    assert!(
        error.to_string().contains("stage answers, step ")
            && error.to_string().contains("hint: a smaller learning_rate")
    );
    let state = tensors(&out.join(RUN_DIR).join("state.safetensors"));
    for (name, tensor) in state {
        let sum = tensor.sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(sum.is_finite(), "{name} is no number in the checkpoint");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_the_run_and_the_checkpoint_before_stands() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), TINY);
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    run(&recipe, &whole, &mut |_| Ok(())).unwrap();
    // From the third step on, the state is written to a device that is always full; the one before is kept aside.
    let (state, kept) = (out.join(RUN_DIR).join("state.safetensors"), out.join(RUN_DIR).join("kept"));
    let error = run(&recipe, &out, &mut |event| {
        if matches!(event, TrainEvent::Step(step) if step.step == 2) {
            std::fs::rename(&state, &kept).unwrap();
            std::os::unix::fs::symlink("/dev/full", &state).unwrap();
        }
        Ok(())
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("state.safetensors") && error.contains("No space left"), "{error}");
    assert!(state.is_symlink(), "a device is never replaced");
    std::fs::rename(&kept, &state).unwrap();
    let mut resumed_at = None;
    run(&recipe, &out, &mut |event| {
        if let TrainEvent::Resumed { step, .. } = event {
            resumed_at = Some(*step);
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(resumed_at, Some(2));
    assert!(written(&out) == written(&whole));
}

#[test]
fn a_directory_of_another_recipe_is_not_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    run(&recipe(dir.path(), TINY), &out, &mut |_| Ok(())).unwrap();
    let other = recipe(dir.path(), &TINY.replace("seed: 5", "seed: 6"));
    let error = run(&other, &out, &mut |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("the state is of another recipe") && error.contains("--restart"), "{error}");
}
