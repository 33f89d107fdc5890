//! Preprocessing against Pillow and Hugging Face: every level is equal.

use candle_core::{DType, Tensor};
use vidense::image::{PreprocessConfig, Preprocessor, Resize};

use crate::harness::{largest, repository, tensors};

/// The configurations under which the goldens were made.
fn configurations() -> [(&'static str, PreprocessConfig); 5] {
    let exact = |width, height| PreprocessConfig {
        resize: Resize::Exact { width, height },
        crop: None,
        ..PreprocessConfig::clip(28)
    };
    [
        ("resize_28x28", exact(28, 28)),
        ("resize_45x30", exact(45, 30)),
        ("clip_pad", PreprocessConfig::clip(28).padded()),
        ("clip_crop", PreprocessConfig::clip(28)),
        ("siglip_pad", PreprocessConfig::siglip(28).padded()),
    ]
}

#[test]
fn every_image_is_prepared_as_pillow_prepares_it() {
    let goldens = tensors(&repository("tests/golden/image/expected.safetensors"));
    let mut compared = 0;
    for entry in std::fs::read_dir(repository("tests/golden/image")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "png") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let picture = image::open(&path).unwrap().into_rgb8();
        for (which, config) in configurations() {
            let ours = Preprocessor::new(config.clone()).image(picture.clone()).unwrap();
            let key = format!("{name}.{which}");
            let theirs = goldens.get(&key).or_else(|| goldens.get(&format!("{key}.u8"))).unwrap();
            let shape = (ours.height() as usize, ours.width() as usize, 3);
            let ours = Tensor::from_slice(ours.as_raw(), shape, &candle_core::Device::Cpu).unwrap();
            let difference = (ours.to_dtype(DType::F32).unwrap() - theirs.to_dtype(DType::F32).unwrap()).unwrap();
            assert_eq!(largest(&difference), 0.0, "{key}");
            if let Some(values) = goldens.get(&format!("{key}.f32")) {
                let (ours, width, height) = Preprocessor::new(config).run(picture.clone()).unwrap();
                let ours = Tensor::from_vec(ours, (3, height as usize, width as usize), values.device()).unwrap();
                assert!(largest(&(ours - values).unwrap()) <= 1e-6, "{key}: values");
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 40);
}
