//! The directory of a training run: weight files of others are kept, sources are not overwritten, and a run resumes
//! over the weights that it began with only.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use safetensors::SafeTensors;
use vidense::error::Error;
use vidense::train::{EarlierRun, Output, RUN_DIR, Recipe, TrainEvent, TrainResources, train};
use vidense::weights::Hub;

use crate::harness::{repository, tensors};
use crate::train_families::{STAGE, over, recipe, run, smolvlm, text};

fn copy(from: &Path, to: &Path) -> PathBuf {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
    to.to_owned()
}

fn mini() -> PathBuf {
    repository("samples/mini")
}

/// A recipe over a checkpoint: `samples/mini` keeps its projector, the families get a new one.
fn recipe_over(dir: &Path, from: &Path) -> Recipe {
    let is_family = from.join("processor_config.json").is_file();
    let model = if is_family { over(from, "sci") } else { format!("{{ from: {} }}", from.display()) };
    recipe(dir, &text(&model, STAGE))
}

/// The message of a run that is refused before its first event.
fn refusal(recipe: &Recipe, out: &Path) -> String {
    let mut n_events = 0;
    let result = run(recipe, out, &mut |_| {
        n_events += 1;
        Ok(())
    });
    let error = result.expect_err("a refusal").to_string();
    assert_eq!(n_events, 0, "{error}");
    error
}

/// Runs until a step is done, then stops.
fn run_until(recipe: &Recipe, out: &Path, last: usize) {
    run(recipe, out, &mut |event| match event {
        TrainEvent::Step(step) if step.step == last => Err(Error::invalid("stop")),
        _ => Ok(()),
    })
    .unwrap_err();
}

#[test]
fn weight_files_of_others_are_named_before_training_and_stay() {
    for from in [mini(), smolvlm()] {
        let dir = tempfile::tempdir().unwrap();
        let recipe = recipe_over(dir.path(), &from);
        for (i, files) in [
            &["model-00001-of-00001.safetensors", "model.safetensors.index.json"][..],
            &["model.safetensors"],
            &["pytorch_model.bin"],
            &["mm_projector.bin"],
            &["vision_tower/model.safetensors"],
            &["vision_tower/pytorch_model.bin"],
        ]
        .into_iter()
        .enumerate()
        {
            let out = dir.path().join(format!("out-{i}"));
            std::fs::create_dir_all(out.join("vision_tower")).unwrap();
            for file in files {
                std::fs::write(out.join(file), "theirs").unwrap();
            }
            let expected = format!("weight files that no run here wrote: {}; hint: another --out", files.join(", "));
            assert_eq!(refusal(&recipe, &out), format!("{}: {expected}", out.display()));
            assert_eq!(std::fs::read(out.join(files[0])).unwrap(), b"theirs");
            assert!(!out.join("config.json").exists() && !out.join(RUN_DIR).exists());
        }
    }
}

#[test]
fn a_run_replaces_its_own_weights_and_those_of_an_earlier_run_that_it_discards() {
    let dir = tempfile::tempdir().unwrap();
    let (recipe, out) = (recipe_over(dir.path(), &mini()), dir.path().join("out"));
    // A tower is copied before the first state is written.
    let stopped = run(&recipe, &out, &mut |_| Err(Error::invalid("stop")));
    assert!(stopped.is_err() && out.join("vision_tower/model.safetensors").is_file());
    let features = out.join(RUN_DIR);
    for (earlier, n_steps) in [(EarlierRun::Resume, 8), (EarlierRun::Resume, 0), (EarlierRun::Discard, 8)] {
        let output = Output { model: &out, features: &features, dtype: DType::F16, earlier };
        let mut n = 0;
        let resources = TrainResources { device: &Device::Cpu, hub: &Hub::offline(None) };
        train(&recipe, output, resources, &mut |event| {
            n += usize::from(matches!(event, TrainEvent::Step(_)));
            Ok(())
        })
        .unwrap();
        assert_eq!(n, n_steps, "{earlier:?}");
    }
    // Shards that were added since are of others all the same.
    std::fs::write(out.join("model.safetensors.index.json"), "{}").unwrap();
    assert!(refusal(&recipe, &out).contains("wrote: model.safetensors.index.json; hint"));
}

#[cfg(unix)]
#[test]
fn a_source_is_never_overwritten() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (family, own) = (copy(&smolvlm(), &at("family")), copy(&mini(), &at("own")));
    symlink(&family, at("link")).unwrap();
    // A directory whose weights, or whose description alone, lead to the source.
    for (name, file) in [("weights", "model.safetensors"), ("description", "config.json")] {
        std::fs::create_dir(at(name)).unwrap();
        symlink(family.join(file), at(name).join(file)).unwrap();
    }
    // A source below the output's directory, where the tower or the state would be.
    let below = copy(&smolvlm(), &at("below/vision_tower"));
    let in_run = copy(&smolvlm(), &at("outer/run/base"));
    std::fs::create_dir(at("towers")).unwrap();
    symlink(own.join("vision_tower"), at("towers/vision_tower")).unwrap();
    for (from, out) in [
        (&family, family.clone()),
        (&family, at("family/../link/.")),
        (&at("link"), family.clone()),
        (&family, at("weights")),
        (&family, at("description")),
        (&own, own.clone()),
        (&own, own.join("vision_tower")),
        (&own, at("towers")),
        (&below, at("below")),
        (&in_run, at("outer")),
    ] {
        let error = refusal(&recipe_over(dir.path(), from), &out);
        let is_named = error.contains("training would overwrite ") || error.contains("is in the directory of the run");
        assert!(is_named && error.ends_with("; hint: another --out"), "{error}");
    }
    for (copy, original) in [(&family, smolvlm()), (&own, mini()), (&below, smolvlm()), (&in_run, smolvlm())] {
        for name in ["config.json", "model.safetensors"] {
            assert!(std::fs::read(copy.join(name)).unwrap() == std::fs::read(original.join(name)).unwrap());
        }
    }
}

#[test]
fn a_run_resumes_over_the_weights_that_it_began_with_only() {
    for (original, file, expected) in [
        (smolvlm(), "model.safetensors", "model.safetensors"),
        (mini(), "model.safetensors", "model.safetensors"),
        (mini(), "vision_tower/model.safetensors", "vision_tower/model.safetensors"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let from = copy(&original, &dir.path().join("from"));
        let (recipe, out) = (recipe_over(dir.path(), &from), dir.path().join("out"));
        run_until(&recipe, &out, 4);
        let mut weights = tensors(&original.join(file));
        for tensor in weights.values_mut() {
            *tensor = (&*tensor * 0.5).unwrap();
        }
        candle_core::safetensors::save(&weights, from.join(file)).unwrap();
        let error = refusal(&recipe, &out);
        let rule = format!("the weights that the model begins with have changed since: {expected}; hint: ");
        assert!(error.contains(&rule) && error.contains("--restart"), "{error}");
        std::fs::copy(original.join(file), from.join(file)).unwrap();
        let mut events = Vec::new();
        run(&recipe, &out, &mut |event| {
            events.push(event.clone());
            Ok(())
        })
        .unwrap();
        assert!(matches!(events[0], TrainEvent::Resumed { step: 4, .. }), "{:?}", events[0]);
    }
}

#[test]
fn a_state_without_hashes_of_its_sources_is_resumed_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let (recipe, out) = (recipe_over(dir.path(), &smolvlm()), dir.path().join("out"));
    run_until(&recipe, &out, 4);
    // The state, as earlier versions wrote it.
    let path = out.join(RUN_DIR).join("state.safetensors");
    let (_, header) = SafeTensors::read_metadata(&std::fs::read(&path).unwrap()).unwrap();
    let progress = &header.metadata().as_ref().unwrap()["progress"];
    let mut progress: serde_json::Value = serde_json::from_str(progress).unwrap();
    assert_eq!(progress["sources"][0]["name"], "model.safetensors");
    progress.as_object_mut().unwrap().remove("sources");
    let metadata = HashMap::from([("progress".to_owned(), progress.to_string())]);
    let written = safetensors::serialize(&tensors(&path), Some(metadata)).unwrap();
    std::fs::write(&path, written).unwrap();
    let mut events = Vec::new();
    run(&recipe, &out, &mut |event| {
        events.push(event.clone());
        Ok(())
    })
    .unwrap();
    assert_eq!(events[0], TrainEvent::SourcesNotCompared);
    assert!(matches!(events[1], TrainEvent::Resumed { step: 4, .. }), "{:?}", events[1]);
}
