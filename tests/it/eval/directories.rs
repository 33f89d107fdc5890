//! Benchmarks whose videos are directories of images, with the rate that gives the images times.

use image::RgbImage;
use serde_json::{Value, json};

use super::Replica;
use super::runs::vidense;

/// Lines of results after the first.
fn results(replica: &Replica, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(replica.path(name)).unwrap();
    text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// MVBench's episodic reasoning over one directory of 20 images, three a second, and its description.
///
/// The expected images are those of `get_index` and `read_frame` in VideoChat2's `mvbench.ipynb` with four segments
/// (numpy 2): numbers of files, from 1.
fn episodic() -> (Replica, [(f64, f64, [u64; 4]); 4]) {
    let clips =
        [(1.5, 4.0, [5, 7, 9, 11]), (0.0, 2.0, [1, 2, 3, 5]), (2.5, 100.0, [9, 12, 15, 18]), (0.2, 0.3, [1, 1, 1, 1])];
    let row = |(start, end, _): &(f64, f64, _)| json!({ "video": "s01", "question": format!("{start}?"), "candidates": ["x", "y"], "answer": "x", "start": start, "end": end });
    let rows: Value = clips.iter().map(row).collect::<Vec<_>>().into();
    let task = "{ name: episodic_reasoning, videos: tvqa/frames_fps3_hq, image_rate: 3 }";
    let spec = format!(
        "name: MVBench\nsplit: test\nsource: x\nformat: {{ mvbench: {{ lists: json, tasks: [{task}] }} }}\n\
         prompt: {{ text: \"{{question}}{{options}}\", source: x }}\nmetrics: [choice]\n"
    );
    let replica = Replica::new(&[("json/episodic_reasoning.json", &rows.to_string()), ("spec.yaml", &spec)]);
    let images = replica.path("tvqa/frames_fps3_hq/s01");
    std::fs::create_dir_all(&images).unwrap();
    for i in 1..=20u8 {
        RgbImage::from_pixel(8, 8, image::Rgb([10 * i; 3])).save(images.join(format!("{i:05}.png"))).unwrap();
    }
    (replica, clips)
}

#[test]
fn clips_of_directories_have_the_images_of_the_original_code() {
    let (replica, clips) = episodic();
    let at = |name: &str| replica.path(name).to_str().unwrap().to_owned();
    let (spec, data, out) = (at("spec.yaml"), at("."), at("out"));
    let sample = ["--sample", "video_chat2:frames=4"];
    let output = vidense(&[&["eval", &spec, "--data", &data, "--out", &out, "--json"][..], &sample].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = report["rows"].as_array().unwrap().last().unwrap();
    assert_eq!((&all["questions"], &all["failed"]), (&json!(4), &json!(0)));
    let answers = results(&replica, "out/run/answers.jsonl");
    assert_eq!(answers.len(), 4);
    for (start, end, expected) in clips {
        let asked = format!("{start}?\nA. x");
        let answer = answers.iter().find(|line| line["question"].as_str().unwrap().starts_with(&asked)).unwrap();
        let frames = answer["frames"].as_array().unwrap();
        let numbers: Vec<u64> = frames.iter().map(|frame| frame["index"].as_u64().unwrap() + 1).collect();
        assert_eq!(numbers, expected, "{start} to {end}");
        let times: Vec<f64> = frames.iter().map(|frame| frame["time_seconds"].as_f64().unwrap()).collect();
        assert_eq!(times, expected.map(|number| (number - 1) as f64 / 3.0), "{start} to {end}");
        assert_eq!(answer["image_rate"], json!(3.0));
    }
}

#[test]
fn an_exported_manifest_has_the_rates_and_asks_the_same_items() {
    let (replica, _) = episodic();
    let at = |name: &str| replica.path(name).to_str().unwrap().to_owned();
    let (spec, data) = (at("spec.yaml"), at("."));
    let output = vidense(&["eval", "export", &spec, "--data", &data, "--to", "manifest", "--out", &at("export")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (pipeline, manifest, run) = (at("export/pipeline.yaml"), at("export/manifest.jsonl"), at("run"));
    let output = vidense(&["batch", &pipeline, &manifest, "--root", &data, "--out", &run]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(results(&replica, "run/answers.jsonl").iter().all(|line| line["frames"][0]["time_seconds"].is_f64()));
    let output = vidense(&["eval", &spec, "--data", &data, "--results", &run, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["rows"].as_array().unwrap().last().unwrap()["questions"], 4);
    let output =
        vidense(&["eval", "export", &spec, "--data", &data, "--to", "lmms-eval", "--task", "x", "--out", &at("t")]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("lmms-eval does not send the times of a clip"), "{error}");
}

#[test]
fn a_person_asks_about_a_directory_with_times_and_not_about_a_file() {
    let (replica, _) = episodic();
    let images = replica.path("tvqa/frames_fps3_hq/s01").to_str().unwrap().to_owned();
    let flags = ["--image-rate", "4", "--start", "1", "--end", "3", "--sample", "fps:fps=2", "--timestamps", "seconds"];
    let flags = [&flags[..], &["--temporal", "concat", "--max-new-tokens", "1", "--json"]].concat();
    let output = vidense(&[&["ask", &images, "What?"], &flags[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let frames = answer["frames"].as_array().unwrap();
    let shown: Vec<_> = frames
        .iter()
        .map(|frame| (frame["index"].as_u64().unwrap(), frame["time_seconds"].as_f64().unwrap()))
        .collect();
    assert_eq!(shown, [(4, 1.0), (6, 1.5), (8, 2.0), (10, 2.5)]);
    let output = vidense(&["ask", "samples/three_shapes.mp4", "What?", "--image-rate", "4"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && error.contains("this is not a directory"), "{error}");
    let output = vidense(&["ask", &images, "What?", "--image-rate", "0"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("invalid image rate `0`"), "{error}");
}
