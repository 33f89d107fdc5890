//! Tests of the meaning of a processor file's keys, for each class.

use serde_json::{Value, json};

use super::config::{Filter, PreprocessConfig, Resize};
use super::processor::ImageProcessor;

fn clip(json: Value) -> PreprocessConfig {
    ImageProcessor::Clip.read(&json).expect("a good file").config
}

#[test]
fn both_spellings_of_the_sizes_are_read() {
    let old = json!({"size": 336, "crop_size": 224, "resample": 3});
    let new = json!({"size": {"shortest_edge": 336}, "crop_size": {"height": 224, "width": 224}});
    assert_eq!(clip(old.clone()), clip(new));
    assert_eq!((clip(old.clone()).resize, clip(old).crop), (Resize::ShortestEdge(336), Some((224, 224))));
    let straight = clip(json!({"size": {"height": 64, "width": 48}, "do_center_crop": false}));
    assert_eq!((straight.resize, straight.crop), (Resize::Exact { width: 48, height: 64 }, None));
}

#[test]
fn each_class_has_its_own_defaults_and_meanings() {
    let size = json!({"size": 56});
    let resize = |class: ImageProcessor| class.read(&size).expect("a good file").config.resize;
    let square = Resize::Exact { width: 56, height: 56 };
    assert_eq!(resize(ImageProcessor::Clip), Resize::ShortestEdge(56));
    assert_eq!(resize(ImageProcessor::Siglip), Resize::ShortestEdge(56));
    assert_eq!((resize(ImageProcessor::Vit), resize(ImageProcessor::LlavaNext)), (square, square));
    // `do_pad` pads to a square in LLaVA's class alone; in the others it fills a batch.
    let padding = json!({"do_pad": true});
    let pad = |class: ImageProcessor| class.read(&padding).expect("a good file").config.pad;
    assert_eq!(pad(ImageProcessor::Llava), Some([122, 116, 104]));
    assert_eq!((pad(ImageProcessor::Clip), pad(ImageProcessor::LlavaNext)), (None, None));
    let vit = ImageProcessor::Vit.read(&json!({})).expect("a good file").config;
    assert_eq!((vit.filter, vit.crop, vit.mean), (Filter::Bilinear, None, [0.5; 3]));
    // The base view is squeezed whether or not the views are resized afterwards.
    let base = ImageProcessor::LlavaNext.read(&json!({"size": {"shortest_edge": 56}, "do_resize": false}));
    assert_eq!(base.expect("a good file").config.resize, square);
}

#[test]
fn idefics3_and_smolvlm_resize_twice() {
    let read = |class: ImageProcessor, json: Value| {
        let reading = class.read(&json).expect("a good file");
        assert!(reading.refused.is_empty() && reading.unknown.is_empty(), "{reading:?}");
        (reading.config.resize, reading.config.squeeze)
    };
    let sampling = json!({"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 512}});
    let file = json!({"do_image_splitting": true, "do_pad": true, "size": {"longest_edge": 2048},
        "max_image_size": {"longest_edge": 512}, "video_sampling": sampling, "resample": 1});
    let two = (Resize::LongestEdge(2048), Some((512, 512)));
    // `size` takes the place of the video's own.
    assert_eq!(read(ImageProcessor::SmolVlm, file.clone()), two);
    assert_eq!(read(ImageProcessor::Idefics3, file), two);
    let apart = json!({"video_sampling": sampling});
    assert_eq!(read(ImageProcessor::SmolVlm, apart), (Resize::LongestEdge(512), Some((364, 364))));
    let off = json!({"do_resize": false});
    assert_eq!(read(ImageProcessor::SmolVlm, off.clone()), (Resize::None, None));
    assert_eq!(read(ImageProcessor::Idefics3, off), (Resize::None, Some((364, 364))));
}

#[test]
fn null_switches_a_step_off_and_is_missing_in_one_that_is_on() {
    let nulls = json!({"do_resize": null, "size": null, "resample": null, "do_center_crop": null, "crop_size": null,
        "do_normalize": null, "image_mean": null, "image_std": null, "do_rescale": null, "rescale_factor": null});
    let off = clip(nulls);
    assert_eq!((off.resize, off.crop, off.rescale, off.mean, off.std), (Resize::None, None, 1.0, [0.0; 3], [1.0; 3]));
    for key in ["size", "resample", "crop_size", "image_mean", "image_std", "rescale_factor"] {
        let error = ImageProcessor::Clip.read(&json!({key: null})).expect_err("it is needed").to_string();
        assert!(error.starts_with(&format!("{key}: null is not usable")), "{error}");
    }
}

#[test]
fn names_of_every_age_lead_to_a_class() {
    for name in ["CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor"] {
        assert_eq!(ImageProcessor::named(name), Some(ImageProcessor::Clip), "{name}");
    }
    assert_eq!(ImageProcessor::named("Emu3ImageProcessor"), None);
}

#[test]
fn the_pad_colour_is_that_of_the_mean_even_without_normalisation() {
    let json = json!({"do_pad": true, "do_normalize": false, "image_mean": [0.5, 0.25, 0.0]});
    assert_eq!(ImageProcessor::Llava.read(&json).expect("a good file").config.pad, Some([127, 63, 0]));
}

#[test]
fn one_number_stands_for_all_channels() {
    let config = clip(json!({"image_mean": 0.5, "image_std": 0.25}));
    assert_eq!((config.mean, config.std), ([0.5; 3], [0.25; 3]));
}

#[test]
fn keys_of_other_classes_are_refused_and_unknown_ones_named() {
    let json = json!({"rescale_offset": true, "crop_pct": 0.9, "size_divisor": null, "brightness": 2});
    let reading = ImageProcessor::Clip.read(&json).expect("a good file");
    let refused: Vec<String> = reading.refused.iter().map(ToString::to_string).collect();
    assert_eq!(
        refused,
        [
            "rescale_offset: true is not usable; expected no such key, which is not obeyed",
            "crop_pct: 0.9 is not usable; expected no such key, which is not obeyed"
        ]
    );
    assert_eq!(reading.unknown, ["brightness"]);
    // The class that a file names ignores them.
    let json = json!({"image_processor_type": "CLIPImageProcessor", "rescale_offset": true, "pad_size": {"height": 9, "width": 9}});
    let reading = ImageProcessor::Clip.read(&json).expect("a good file");
    assert!(reading.refused.is_empty() && reading.unknown == ["rescale_offset"], "{reading:?}");
    // `do_pad` obeys `pad_size`, but in LLaVA's class.
    let padded = json!({"do_pad": true, "pad_size": {"height": 9, "width": 9}});
    let n_refused = |class: ImageProcessor| class.read(&padded).expect("a good file").refused.len();
    assert_eq!((n_refused(ImageProcessor::Clip), n_refused(ImageProcessor::Llava)), (1, 0));
}

#[test]
fn a_square_by_its_own_key_is_of_clips_class_alone() {
    let json = json!({"use_square_size": true});
    let resize = |class: ImageProcessor| class.read(&json).expect("a good file").config.resize;
    assert_eq!(resize(ImageProcessor::Clip), Resize::Exact { width: 224, height: 224 });
    assert_eq!(resize(ImageProcessor::Bit), Resize::ShortestEdge(224));
    assert_eq!(ImageProcessor::named("BitImageProcessor"), Some(ImageProcessor::Bit));
}

#[test]
fn zero_and_one_are_switches() {
    assert_eq!(clip(json!({"do_center_crop": 0})), clip(json!({"do_center_crop": false})));
    assert_eq!(clip(json!({"do_center_crop": 1.0})), clip(json!({"do_center_crop": true})));
    assert!(ImageProcessor::Clip.read(&json!({"do_center_crop": 2})).is_err());
}

#[test]
fn unusable_values_are_named() {
    for (json, message) in [
        (json!({"size": 0}), "size: 0 is not usable; expected a number of pixels from 1 to 16384"),
        (
            json!({"size": {"longest_edge": 3}}),
            "size: {\"longest_edge\":3} is not usable; expected a number, {shortest_edge}, \
             {shortest_edge, longest_edge}, {height, width}, or {max_height, max_width}",
        ),
        (
            json!({"resample": 9}),
            "resample: 9 is not usable; expected Pillow's number of a filter, 0 to 5 (3 is bicubic)",
        ),
        (json!({"do_resize": "no"}), "do_resize: \"no\" is not usable; expected true or false"),
        (json!({"image_std": [1, 0, 1]}), "image_std: [1,0,1] is not usable; expected three numbers other than zero"),
        (
            json!({"image_mean": [1, 2]}),
            "image_mean: [1,2] is not usable; expected three numbers, or one for all channels",
        ),
    ] {
        assert_eq!(ImageProcessor::Clip.read(&json).expect_err("a bad file").to_string(), message);
    }
    let siglip = ImageProcessor::Siglip.read(&json!({"do_center_crop": true})).expect_err("no size to cut");
    assert_eq!(
        siglip.to_string(),
        "crop_size: null is not usable; expected a number, or {height, width}, as do_center_crop is true"
    );
}
