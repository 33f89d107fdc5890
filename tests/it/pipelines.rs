//! Pipeline files: the shipped ones, broken ones with their exact messages, mutated ones, and runs of valid ones.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use proptest::prelude::*;
use serde_json::Value;
use vidense::spec::{Plan, editor_schema, read_plan};
use vidense::vlm::{Blueprint, Overrides};
use vidense::weights::Hub;

use crate::harness::repository;

fn shipped() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository("pipelines")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    paths.sort();
    paths
}

fn vidense(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
    command.current_dir(repository("")).env("HF_HUB_OFFLINE", "1").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_shipped_pipeline_is_a_plan_that_prints_as_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    assert!(shipped().len() >= 24);
    for path in shipped() {
        let (plan, _) = read_plan(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let copy = dir.path().join("copy.yaml");
        std::fs::write(&copy, plan.to_yaml().unwrap()).unwrap();
        assert_eq!(read_plan(&copy, &[]).unwrap().0, plan, "{}", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("# yaml-language-server: $schema=pipeline.schema.json"), "{}", path.display());
        assert!(lines.next().is_some_and(|line| line.starts_with("# ")), "{}: no comment", path.display());
    }
}

#[test]
fn every_strategy_and_every_released_checkpoint_has_a_pipeline() {
    let plans: Vec<Plan> = shipped().iter().map(|path| read_plan(path, &[]).unwrap().0).collect();
    for name in [
        "max_pool",
        "concat",
        "temporal_mean_before_projector",
        "pool_2d",
        "adaptive_3d",
        "slowfast",
        "ts_llava",
        "ig_vlm",
        "evs",
    ] {
        assert!(plans.iter().any(|plan| plan.temporal().name() == name), "{name}");
    }
    for name in [
        "v1.5-7B",
        "v1.5-13B",
        "v1.5-8B",
        "7B-AnyRes",
        "llava-v1.5-7b",
        "llava-v1.5-13b",
        "llava-1.5-7b-hf",
        "llava-1.5-13b-hf",
    ] {
        assert!(plans.iter().any(|plan| plan.model.ends_with(name)), "{name}");
    }
}

#[test]
fn an_empty_file_is_all_defaults_and_a_choice_may_be_a_name_or_a_map() {
    let dir = tempfile::tempdir().unwrap();
    let plan = |yaml: &str| {
        let path = dir.path().join("plan.yaml");
        std::fs::write(&path, yaml).unwrap();
        read_plan(&path, &[]).unwrap_or_else(|error| panic!("{yaml}: {error}")).0
    };
    assert_eq!(plan(""), Plan::default());
    assert_eq!(plan("# nothing\n"), Plan::default());
    for (a, b) in [
        ("temporal: concat", "temporal: { concat: {} }"),
        ("temporal: max_pool", "temporal: { max_pool: { stride: 2 } }"),
        ("temporal: slowfast", "temporal: { slowfast: }"),
        ("connector: dci", "connector: { dci: { window: 1 } }"),
        ("sample: all", "sample: { all: }"),
        ("window: { start: 83.5 }", "window: { start: '1:23.5' }"),
    ] {
        assert_eq!(plan(a), plan(b), "{a}");
    }
}

#[test]
fn files_extend_each_other_and_set_has_the_last_word() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, yaml: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, yaml).unwrap();
        path
    };
    write("base.yaml", "model: a/b\ntemporal: { max_pool: { stride: 4 } }\ngenerate: { seed: 7, top_k: 3 }\n");
    let child = write("child.yaml", "extends: base.yaml\ntemporal: concat\ngenerate: { seed: 8 }\n");
    let read = |sets: &[&str]| read_plan(&child, &sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>());
    let (plan, _) = read(&[]).unwrap();
    assert_eq!((plan.model.as_str(), plan.temporal().name().as_str()), ("a/b", "concat"));
    assert_eq!((plan.generate.sampling.seed, plan.generate.sampling.top_k), (8, Some(3)));
    let (plan, _) = read(&["temporal.max_pool.stride=3", "generate.seed=9", "model=c"]).unwrap();
    assert_eq!(
        (plan.temporal().to_string(), plan.generate.sampling.seed, plan.model),
        ("max_pool:3".into(), 9, "c".into())
    );
    let error = |sets: &[&str]| read(sets).unwrap_err().to_string();
    assert_eq!(
        error(&["temporal.max_pool.stride=x"]),
        "--set temporal.max_pool.stride=x: temporal.max_pool.stride: wants a whole number, found \"x\""
    );
    assert_eq!(error(&["seed"]), "--set seed: wants key=value; hint: temporal.max_pool.stride=4");
    write("base.yaml", "extends: child.yaml\n");
    assert!(error(&[]).contains("extend each other in a cycle"), "{}", error(&[]));
}

/// What a broken file is answered with, line by line, after `pipeline.yaml`.
const BROKEN: &[(&str, &[&str])] = &[
    ("modle: x", &[":1:1: modle: unknown key `modle`; hint: `model`?"]),
    ("temporal: max_pol", &[":1:1: temporal: unknown choice `max_pol`; hint: `max_pool`?"]),
    ("temporal: { max_pol: { stride: 2 } }", &[":1:13: temporal.max_pol: unknown choice `max_pol`; hint: `max_pool`?"]),
    ("temporal:\n  max_pool:\n    strid: 2", &[":3:5: temporal.max_pool.strid: unknown key `strid`; hint: `stride`?"]),
    ("temporal:\n  max_pool: { stride: 0 }", &[":2:15: temporal.max_pool.stride: wants at least 1, found 0"]),
    ("temporal: { max_pool: { stride: 2.5 } }", &[":1:25: temporal.max_pool.stride: wants a whole number, found 2.5"]),
    ("temporal: { max_pool: { stride: -2 } }", &[":1:25: temporal.max_pool.stride: wants at least 1, found -2"]),
    (
        "temporal: { max_pool: { stride: two } }",
        &[":1:25: temporal.max_pool.stride: wants a whole number, found \"two\""],
    ),
    (
        "temporal: { max_pool: 2 }",
        &[":1:13: temporal.max_pool: wants keys and values, found 2; hint: the keys are stride"],
    ),
    (
        "temporal: { max_pool: {}, concat: {} }",
        &[":1:1: temporal: wants one choice, found 2: `max_pool`, `concat`; hint: one of temporal_mean, \
           temporal_mean_before_projector, spatial_mean, spatial_temporal_mean, concat, max_pool, pool_2d, adaptive_3d, slowfast, \
           ts_llava, ig_vlm, evs, one_vision, checkpoint"],
    ),
    (
        "temporal: { concat: { stride: 2 } }",
        &[":1:13: temporal.concat: takes no options, found keys and values (`stride`...); hint: just `concat`"],
    ),
    (
        "connector: [dci]",
        &[
            ":1:1: connector: wants the name of a choice, found a list of 1; hint: one of checkpoint, none, sti, sci, dci",
        ],
    ),
    ("connector: dcj", &[":1:1: connector: unknown choice `dcj`; hint: `dci`?"]),
    (
        "connector: { dci: { window: 4 } }",
        &[":1:21: connector.dci.window: a window has a middle frame, so it is odd, not 4; hint: 5"],
    ),
    ("sample: { uniform: { frames: 0 } }", &[":1:22: sample.uniform.frames: wants at least 1, found 0"]),
    ("sample: { uniform: { frame: 4 } }", &[":1:22: sample.uniform.frame: unknown key `frame`; hint: `frames`?"]),
    (
        "sample: { uniform: { short: some } }",
        &[":1:22: sample.uniform.short: unknown choice `some`; hint: one of fewer, repeat_last, refuse"],
    ),
    ("sample: { fps: { fps: 0 } }", &[":1:18: sample.fps.fps: wants above 0.0, found 0"]),
    (
        "sample: { fps: { min: 9, max: 3 } }",
        &[":1:11: sample.fps: invalid range of 9 to 3 frames; hint: min from 0 to max, max up to 100000"],
    ),
    ("sample: { times: { times: [] } }", &[":1:20: sample.times.times: wants at least 1, found a list of 0"]),
    ("sample: { times: { times: [1, two] } }", &[":1:31: sample.times.times.1: wants a number, found \"two\""]),
    ("sample: { scene: { threshold: 1 } }", &[":1:20: sample.scene.threshold: wants below 1.0, found 1"]),
    (
        "sample: 8",
        &[
            ":1:1: sample: wants the name of a choice, found 8; hint: one of uniform, linspace, fps, every, keyframes, times, scene, ig_vlm, all, smolvlm, one_vision, llava_video, internvl, video_chat2, checkpoint",
        ],
    ),
    ("device: gpu", &[":1:1: device: wants another form, found \"gpu\"; hint: auto, cpu, cuda, cuda:1, metal"]),
    ("dtype: f64", &[":1:1: dtype: unknown choice `f64`; hint: `f32`?"]),
    ("quantization: q4", &[":1:1: quantization: unknown choice `q4`; hint: one of none, q8_0, q4_k"]),
    (
        "window: { start: soon }",
        &[":1:11: window.start: wants another form, found \"soon\"; hint: seconds, or h:mm:ss"],
    ),
    ("window: { start: 5, end: 4 }", &[":1:21: window.end: 0:04.000 is not after the start, 0:05.000"]),
    ("rope: { linear: { factor: 0.5 } }", &[":1:19: rope.linear.factor: wants at least 1.0, found 0.5"]),
    (
        "rope: { yarn: { factor: 2 } }",
        &[":1:9: rope.yarn: unknown choice `yarn`; hint: one of checkpoint, linear, dynamic_ntk"],
    ),
    ("prompt: { template: vicuna }", &[":1:11: prompt.template: unknown template `vicuna`; hint: `vicuna_v1`?"]),
    (
        "prompt: { question: Why }",
        &[
            ":1:11: prompt.question: wants the mark {question} once, found it 0 times in \"Why\"; hint: \"Question: {question}\"",
        ],
    ),
    ("prompt: { system: 3 }", &[":1:11: prompt.system: wants a text, found 3"]),
    ("generate: { temperature: -1 }", &[":1:13: generate.temperature: wants at least 0.0, found -1"]),
    ("generate: { top_p: 2 }", &[":1:13: generate.top_p: wants at most 1.0, found 2"]),
    (
        "generate: { max_new_tokens: many, sed: 1 }",
        &[
            ":1:13: generate.max_new_tokens: wants a whole number, found \"many\"",
            ":1:35: generate.sed: unknown key `sed`; hint: `seed`?",
        ],
    ),
    ("exec: { decode_threads: 0 }", &[":1:9: exec.decode_threads: wants at least 1, found 0"]),
    ("exec: { preprocess_threads: 257 }", &[":1:9: exec.preprocess_threads: wants at most 256, found 257"]),
    ("exec: { capacity: { decoded: -1 } }", &[":1:21: exec.capacity.decoded: wants at least 0, found -1"]),
    ("model: ''", &[":1:1: model: is empty; hint: a directory, or a hub id such as org/name"]),
    ("model: [a, b]", &[":1:1: model: wants a text, found a list of 2"]),
    ("extends: 3", &[":1:1: extends: wants the path of a pipeline, found 3"]),
    ("just words", &[": wants keys and values, found \"just words\"; hint: model: vidense-mini"]),
    ("model: x\nmodel: y", &[":2:1: the key `model` comes twice"]),
    (
        "modle: x\nprompt: { template: vicuna, question: Why }\ngenerate: { top_k: 0 }\nconnector: { dci: { window: 2 } }\n",
        &[
            ":1:1: modle: unknown key `modle`; hint: `model`?",
            ":3:13: generate.top_k: wants at least 1, found 0",
            ":4:21: connector.dci.window: a window has a middle frame, so it is odd, not 2; hint: 3",
            ":2:11: prompt.template: unknown template `vicuna`; hint: `vicuna_v1`?",
            ":2:29: prompt.question: wants the mark {question} once, found it 0 times in \"Why\"; hint: \"Question: {question}\"",
        ],
    ),
    (
        "modle: x\ntemporal:\n  slowfast:\n    slow_frames: no\n    fast: 4\nsample: every\ngenerate:\n  top_k: 0\n",
        &[
            ":1:1: modle: unknown key `modle`; hint: `model`?",
            ":4:5: temporal.slowfast.slow_frames: wants a whole number, found \"no\"",
            ":5:5: temporal.slowfast.fast: unknown key `fast`; hint: one of slow_frames, slow_stride, fast_grid",
            ":8:3: generate.top_k: wants at least 1, found 0",
        ],
    ),
];

#[test]
fn broken_files_are_answered_with_every_error_at_once() {
    let dir = tempfile::tempdir().unwrap();
    assert!(BROKEN.len() >= 40, "{}", BROKEN.len());
    let mut wrong = Vec::new();
    for (yaml, expected) in BROKEN {
        let path = dir.path().join("pipeline.yaml");
        std::fs::write(&path, yaml).unwrap();
        let error = read_plan(&path, &[]).expect_err(yaml).to_string().replace(path.to_str().unwrap(), "pipeline.yaml");
        let expected = expected.iter().map(|line| format!("pipeline.yaml{line}")).collect::<Vec<_>>().join("\n");
        if error != expected {
            wrong.push(format!("{yaml}\n  found    {error}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_base_that_is_broken_is_named_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (base, child) = (dir.path().join("base.yaml"), dir.path().join("child.yaml"));
    std::fs::write(&child, "extends: base.yaml\nmodel: x\n").unwrap();
    let error = || read_plan(&child, &[]).unwrap_err().to_string();
    assert!(error().contains("base.yaml: No such file"), "{}", error());
    std::fs::write(&base, "temporal: { max_pool: { stride: 0 } }").unwrap();
    assert_eq!(error(), format!("{}:1:25: temporal.max_pool.stride: wants at least 1, found 0", base.display()));
}

/// The rules between a plan and a model, on the model inside the binary.
#[test]
fn a_plan_that_does_not_fit_its_model_is_refused_before_weights_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for (yaml, expected) in [
        (
            "sample: { uniform: { frames: 40 } }\ntemporal: concat",
            "temporal.concat: 40 frames x 64 tokens = 2560 visual tokens + 8 for the prompt = 2568, over the model's context of 1024; hint: use 15 frames",
        ),
        (
            "connector: none",
            "connector: none makes tokens of 128 channels, but the checkpoint's projector takes 384; hint: connector: checkpoint",
        ),
        ("temporal: { pool_2d: { height: 12 } }", "temporal.pool_2d: pools to 12 x 12, but the patch grid is 8 x 8"),
        ("temporal: { max_pool: { stride: 65 } }", "no visual token"),
        (
            "connector: { dci: { window: 3 } }\ntemporal: ig_vlm",
            "connector.dci.window: a window of 3 frames goes over frames",
        ),
    ] {
        let path = dir.path().join("p.yaml");
        std::fs::write(&path, yaml).unwrap();
        let output = vidense(&["run", path.to_str().unwrap(), "samples/three_shapes.mp4", "-q", "Why?"]);
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(expected), "{yaml}: {error}");
    }
}

#[test]
fn a_pool_that_drops_tokens_warns() {
    let (plan, _) = read_plan(&repository("pipelines/mini.yaml"), &["temporal.max_pool.stride=3".to_owned()]).unwrap();
    let blueprint = Blueprint::read("vidense-mini", &Overrides::default(), &Hub::offline(None)).unwrap();
    let finding = plan.check_model(&blueprint);
    assert_eq!(finding.problems, []);
    assert_eq!(
        finding.warnings[0].rule,
        "the last 1 of the 64 tokens of each frame are dropped, as the pool is not even"
    );
}

#[test]
fn the_schema_knows_every_key_and_every_form() {
    let schema = editor_schema();
    let properties = schema["properties"].as_object().unwrap();
    let plan: Value = serde_json::to_value(Plan::default()).unwrap();
    for key in plan.as_object().unwrap().keys().chain([&"extends".to_owned()]) {
        assert!(properties.contains_key(key), "{key}");
        assert!(properties[key]["description"].is_string(), "{key} is not described");
    }
    assert_eq!(schema["additionalProperties"], false);
    let printed = vidense(&["schema"]);
    assert_eq!(serde_json::from_slice::<Value>(&printed.stdout).unwrap(), schema);
    // The file beside the pipelines, which their first lines name to editors.
    let file = std::fs::read_to_string(repository("pipelines/pipeline.schema.json")).unwrap();
    assert_eq!(text(&printed.stdout), file, "hint: vidense schema > pipelines/pipeline.schema.json");
}

/// Cuts, repeats, replaces or inserts a piece of a text.
fn mutate(text: &str, cuts: &[(usize, usize, u8)]) -> String {
    const PIECES: [&str; 12] =
        ["{", "}", ":", "- ", "\n", "  ", "\t", "9999999999999999999999", "null", "&a *a", "é\u{0}", "<<: *a"];
    let mut chars: Vec<char> = text.chars().collect();
    for &(at, length, what) in cuts {
        let at = at % (chars.len() + 1);
        let end = (at + length % 9).min(chars.len());
        match what % 4 {
            0 => drop(chars.drain(at..end)),
            1 => {
                let piece: Vec<char> = chars[at..end].to_vec();
                chars.splice(at..at, piece);
            }
            _ => drop(chars.splice(at..end, PIECES[usize::from(what) % PIECES.len()].chars()).collect::<Vec<_>>()),
        }
    }
    chars.into_iter().collect()
}

fn read_mutated(dir: &Path, which: usize, cuts: &[(usize, usize, u8)]) {
    let paths = shipped();
    let path = &paths[which % paths.len()];
    let mutated = mutate(&std::fs::read_to_string(path).unwrap(), cuts);
    let copy = dir.join("mutated.yaml");
    std::fs::write(&copy, mutated).unwrap();
    match read_plan(&copy, &[]) {
        Ok((plan, document)) => {
            plan.to_yaml().unwrap();
            drop(document);
        }
        Err(error) => assert!(error.errors().all(|error| !error.rule().is_empty()), "{error:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("VIDENSE_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(1500), ..ProptestConfig::default() })]

    /// 1,500 here, and as many as `VIDENSE_MUTATIONS` says.
    #[test]
    fn mutated_files_never_panic(which in 0usize..64, cuts in prop::collection::vec((0usize..2000, 0usize..64, any::<u8>()), 1..6)) {
        let dir = tempfile::tempdir().unwrap();
        read_mutated(dir.path(), which, &cuts);
    }
}

/// Twenty clips of a world, and what `ask` answers about each.
fn clips(dir: &Path, n: usize) -> Vec<String> {
    let out = dir.to_str().unwrap();
    let n = n.to_string();
    let made = vidense(&["world", "--seed", "31", "--videos", &n, "--format", "mixed", "--out", out]);
    assert!(made.status.success(), "{made:?}");
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut clips: Vec<String> = entries.map(|path| path.to_str().unwrap().to_owned()).collect();
    clips.retain(|path| !path.ends_with(".jsonl"));
    clips.sort();
    clips
}

fn objects(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
#[ignore = "slow"]
fn a_run_over_many_videos_answers_as_ask_does_whatever_batches_and_threads() {
    let dir = tempfile::tempdir().unwrap();
    let clips = clips(dir.path(), 20);
    let question = "Describe the video.";
    let asked: Vec<Value> =
        clips.iter().flat_map(|clip| objects(&vidense(&["ask", clip, question, "--json"]))).collect();
    assert_eq!(asked.len(), 20);
    for sets in [
        &[][..],
        &["exec.decode_threads=1", "exec.encode_batch=1"],
        &["exec.decode_threads=4", "exec.encode_batch=7", "exec.preprocess_threads=1"],
        &["exec.decode_threads=2", "exec.preprocess_threads=6"],
        &["exec.decode_threads=3", "exec.encode_batch=32", "exec.capacity.prepared=64", "exec.capacity.decoded=0"],
        &[
            "exec.encode_batch=3",
            "exec.preprocess_threads=3",
            "exec.capacity={decoded: 0, prepared: 0, encoded: 0, aggregated: 0}",
        ],
    ] {
        let mut arguments = vec!["run", "pipelines/mini.yaml", "--json", "-q", question];
        sets.iter().for_each(|set| arguments.extend(["--set", *set]));
        arguments.extend(clips.iter().map(String::as_str));
        let output = vidense(&arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let run = objects(&output);
        assert_eq!(run.len(), 20);
        for (one, many) in asked.iter().zip(&run) {
            for key in
                ["video", "answer", "token_ids", "frames", "visual_tokens", "prompt_tokens", "plan", "finish_reason"]
            {
                assert_eq!(one[key], many[key], "{sets:?} {key}");
            }
        }
    }
}

#[test]
fn several_questions_are_answered_as_if_each_were_alone() {
    let clip = "samples/three_shapes.mp4";
    let questions = ["What color is the circle?", "How many objects are there?", "Describe the video."];
    let mut arguments = vec!["run", "pipelines/mini.yaml", clip, "--json"];
    questions.iter().for_each(|question| arguments.extend(["-q", *question]));
    let run = objects(&vidense(&arguments));
    for (question, answer) in questions.iter().zip(&run) {
        let alone = objects(&vidense(&["ask", clip, question, "--json"])).remove(0);
        assert_eq!((&answer["question"], &answer["token_ids"]), (&alone["question"], &alone["token_ids"]));
    }
}

#[test]
fn a_video_that_fails_is_told_with_its_stage_and_stops_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.mp4");
    std::fs::write(&broken, b"no video").unwrap();
    let (broken, good) = (broken.to_str().unwrap(), "samples/three_shapes.mp4");
    let output = vidense(&[
        "run",
        "pipelines/mini.yaml",
        broken,
        good,
        "gone.mp4",
        good,
        "--json",
        "-q",
        "How many objects are there?",
    ]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lines = objects(&output);
    let answers: Vec<_> = lines.iter().map(|line| line["answer"].as_str()).collect();
    assert_eq!(answers[0], None);
    assert_eq!((answers[1], answers[2]), (answers[3], None));
    assert!(answers[1].is_some());
    assert_eq!((&lines[0]["stage"], &lines[2]["stage"]), (&"decode".into(), &"decode".into()));
    let told = text(&output.stderr);
    assert!(told.contains("gone.mp4: no such file or directory (in the stage decode)"), "{told}");
    assert!(told.contains("2 item(s) failed"), "{told}");
}

#[test]
fn a_video_too_long_for_the_context_is_refused_before_it_is_decoded() {
    let clip = "samples/three_shapes.mp4";
    let sets = ["--set", "sample={every: {n: 1}}", "--set", "temporal=concat"];
    let output = vidense(&[&["run", "pipelines/mini.yaml", clip, "-q", "Why?", "--json"], &sets[..]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let failure = objects(&output).remove(0);
    assert_eq!(failure["stage"], "decode");
    let error = failure["error"].as_str().unwrap();
    assert!(
        error.contains("36 frames x 64 tokens = 2304 visual tokens") && error.contains("context of 1024"),
        "{error}"
    );
}

#[test]
fn every_mini_pipeline_runs_offline() {
    for path in shipped().iter().filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("mini")) {
        let output = vidense(&[
            "run",
            path.to_str().unwrap(),
            "samples/three_shapes.mp4",
            "-q",
            "What color is the background?",
            "--json",
        ]);
        assert_eq!(output.status.code(), Some(0), "{}: {output:?}", path.display());
        let object = objects(&output).remove(0);
        let (plan, _) = read_plan(path, &[]).unwrap();
        let blueprint = Blueprint::read(&plan.model, &plan.overrides(), &Hub::offline(None)).unwrap();
        let n_frames = object["frames"].as_array().unwrap().len();
        let expected = plan.temporal().n_tokens(n_frames, blueprint.frame_tokens());
        assert_eq!(object["visual_tokens"].as_u64().unwrap() as usize, expected.0, "{}", path.display());
    }
}

#[test]
fn inspect_prints_a_pipeline_that_reads_as_the_same_plan() {
    let dir = tempfile::tempdir().unwrap();
    let output = vidense(&["inspect", "pipelines/mini-slowfast.yaml", "--set", "generate.seed=5"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = text(&output.stdout);
    assert!(
        printed.contains("# plan        ") && printed.contains("4 slow frames x 32 + 16 fast frames x 16 tokens"),
        "{printed}"
    );
    let copy = dir.path().join("copy.yaml");
    std::fs::write(&copy, printed).unwrap();
    let (plan, _) = read_plan(&copy, &[]).unwrap();
    assert_eq!(
        plan,
        read_plan(&repository("pipelines/mini-slowfast.yaml"), &["generate.seed=5".to_owned()]).unwrap().0
    );
}

#[test]
fn timings_and_a_trace_tell_every_stage() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace.json");
    let output = vidense(&[
        "run",
        "pipelines/mini.yaml",
        "samples/three_shapes.mp4",
        "samples/clips/clip-00000.mp4",
        "-q",
        "Why?",
        "--timings",
        "--trace",
        trace.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = text(&output.stderr);
    let events: Vec<Value> = serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap();
    for stage in ["videos", "decode", "preprocess", "encode", "aggregate", "generate"] {
        assert!(told.lines().any(|line| line.starts_with(stage)), "{told}");
        assert!(events.iter().any(|event| event["name"] == stage && event["ph"] == "X"), "{stage}");
    }
    assert!(told.contains("the bottleneck is "), "{told}");
    let encode = told.lines().find(|line| line.starts_with("encode")).unwrap();
    // Two videos of 8 frames: 16 images and 2 ends.
    assert!(encode.split_whitespace().nth(2) == Some("18"), "{encode}");
    assert!(
        vidense(&["run", "pipelines/mini.yaml", "x.mp4", "-q", "?", "--trace", "/no/where"]).status.code() == Some(2)
    );
}

#[cfg(unix)]
#[test]
fn an_interrupt_finishes_what_is_under_way_and_a_second_one_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let clip = &clips(dir.path(), 1)[0];
    for n_signals in [1, 2] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vidense"));
        command.current_dir(repository("")).args(["run", "pipelines/mini.yaml", "--json", "-q", "Describe the video."]);
        command.args(std::iter::repeat_n(clip, 3000));
        let mut child =
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        std::io::BufRead::read_line(&mut reader, &mut first).unwrap();
        for _ in 0..n_signals {
            let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
            assert!(killed.success());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut reader, &mut rest).unwrap();
        let output = child.wait_with_output().unwrap();
        let n_lines = 1 + rest.lines().count();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        assert!(n_lines < 3000, "{n_lines}");
        // Every line is whole.
        assert!(rest.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
        assert!(text(&output.stderr).contains("of 3000 videos were not processed"), "{}", text(&output.stderr));
    }
}
