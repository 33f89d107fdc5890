//! Preprocessing of frames on a GPU (padding, resizing, cropping, normalising): `resize.cu`. The sizes and tables are
//! computed in `image::plan`.

use candle_core::{DType, Result, Tensor};

use super::launch::{Executor, Launch, LaunchGeometry};
use crate::image::plan::FramePlan;
use crate::kernels::frames::DeviceFramePlan;

/// Number of threads of a block; each computes a pixel.
const THREADS: usize = 256;

/// Preprocesses a frame of interleaved RGB levels, in two launches.
///
/// # Shapes
/// `(height, width, 3)` to `(1, 3, height', width')` in `dtype`.
///
/// # Errors
/// When the frame has another size than the plan's, or a launch fails.
pub(super) fn prepare(executor: &dyn Executor, frame: &[u8], tables: &DeviceFramePlan, dtype: DType) -> Result<Tensor> {
    let DeviceFramePlan { plan, horizontal, vertical, levels } = tables;
    let FramePlan { frame: (width, height), canvas_height, offset: (left, top), colour: [r, g, b], .. } = *plan;
    let [width, height, canvas_height] = [width, height, canvas_height].map(|side| side as usize);
    if frame.len() != width * height * 3 {
        candle_core::bail!("preprocessing: a frame of {} levels, not of {width} x {height} pixels", frame.len());
    }
    let (n_columns, n_rows) = (plan.horizontal.n_targets(), plan.vertical.n_targets());
    let frame = executor.upload(frame)?;
    let rows = executor.empty((canvas_height, n_columns, 3).into(), DType::U8)?;
    Launch::new("resize_rows", DType::U8, thread_per_pixel(canvas_height * n_columns))
        .tensor(&rows)?
        .tensor(&frame)?
        .tensor_of(&horizontal.starts, DType::U32)?
        .tensor_of(&horizontal.weights, DType::U32)?
        .size(plan.horizontal.n_taps)?
        .size(canvas_height)?
        .size(n_columns)?
        .size(width)?
        .size(height)?
        .size(left as usize)?
        .size(top as usize)?
        .size(u32::from_le_bytes([r, g, b, 0]) as usize)?
        .run(executor)?;
    let [width, height] = [plan.size.0, plan.size.1].map(|side| side as usize);
    let y = executor.empty((1, 3, height, width).into(), dtype)?;
    // Negative offsets wrap around to values beyond the size of the canvas.
    let wrapped = |offset: i32| offset as u32 as usize;
    Launch::new("resize_columns", dtype, thread_per_pixel(height * width))
        .tensor(&y)?
        .tensor_of(&rows, DType::U8)?
        .tensor_of(&vertical.starts, DType::U32)?
        .tensor_of(&vertical.weights, DType::U32)?
        .tensor_of(levels, DType::F32)?
        .size(plan.vertical.n_taps)?
        .size(n_rows)?
        .size(n_columns)?
        .size(width)?
        .size(height)?
        .size(wrapped(plan.crop.0))?
        .size(wrapped(plan.crop.1))?
        .run(executor)?;
    Ok(y)
}

/// Returns one thread for each of `n` pixels.
fn thread_per_pixel(n: usize) -> LaunchGeometry {
    LaunchGeometry { grid: [n.div_ceil(THREADS), 1, 1], threads: THREADS, shared_bytes: 0 }
}

#[cfg(test)]
mod tests {
    use ::image::RgbImage;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    use super::super::tests::tested;
    use super::*;
    use crate::image::config::Filter;
    use crate::image::{PreprocessConfig, Preprocessor, Resize};
    use crate::kernels::Kernels as _;
    use candle_core::Device;

    fn random_image(width: u32, height: u32) -> RgbImage {
        let mut image = RgbImage::new(width, height);
        ChaCha8Rng::seed_from_u64(u64::from(width * 1000 + height)).fill_bytes(&mut image);
        image
    }

    /// Returns configurations with padding, kept proportions, crops inside and beyond the image, and every filter.
    fn configs() -> Vec<PreprocessConfig> {
        let siglip = PreprocessConfig::siglip(28);
        let crop = PreprocessConfig { resize: Resize::ShortestEdge(30), crop: Some((28, 28)), ..siglip.clone() };
        let mut configs = vec![
            PreprocessConfig { pad: Some([7, 130, 250]), ..siglip.clone() },
            PreprocessConfig { resize: Resize::ShortestEdge(20), ..crop.clone() },
            PreprocessConfig { resize: Resize::None, crop: Some((33, 9)), ..siglip.clone() },
            PreprocessConfig { resize: Resize::Within { width: 17, height: 40 }, ..siglip.clone() },
            crop,
        ];
        let filters =
            [Filter::Nearest, Filter::Lanczos, Filter::Bilinear, Filter::Bicubic, Filter::Box, Filter::Hamming];
        configs.extend(filters.map(|filter| PreprocessConfig { filter, ..siglip.clone() }));
        configs
    }

    #[test]
    fn preprocessed_frames_are_bit_identical_to_the_cpu() {
        for tested in tested() {
            for config in configs() {
                let preprocessor = Preprocessor::new(config.clone());
                for (width, height) in [(28, 28), (64, 36), (19, 47), (1, 5), (101, 3)] {
                    let image = random_image(width, height);
                    let (values, width_out, height_out) = preprocessor.run(image.clone()).expect("small");
                    let shape = (1, 3, height_out as usize, width_out as usize);
                    let expected = Tensor::from_vec(values, shape, &Device::Cpu).and_then(|x| x.to_dtype(tested.dtype));
                    let plan = preprocessor.plan((width, height).into()).expect("small");
                    assert_eq!(plan.size, (width_out, height_out));
                    let tables = DeviceFramePlan::new(plan, &tested.device).expect("small");
                    let found = tested.kernels.prepare_frame(image.as_raw(), &tables).expect("its own size");
                    let elements = |x: &Tensor| -> Vec<f32> {
                        let x =
                            x.to_device(&Device::Cpu).and_then(|x| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1());
                        x.expect("small")
                    };
                    let (found, expected) = (found.expect("a kernel"), expected.expect("small"));
                    assert_eq!(found.dims(), expected.dims());
                    assert_eq!(
                        elements(&found),
                        elements(&expected),
                        "{width} x {height}, {config:?}, {:?}",
                        tested.dtype
                    );
                }
            }
        }
    }

    #[test]
    fn a_frame_of_another_size_is_rejected() {
        for tested in tested() {
            let plan = Preprocessor::new(PreprocessConfig::siglip(4)).plan((8, 6).into()).expect("small");
            let tables = DeviceFramePlan::new(plan, &tested.device).expect("small");
            let error = tested.kernels.prepare_frame(&[0; 12], &tables).expect_err("another size").to_string();
            assert!(error.starts_with("preprocessing: a frame of 12 levels, not of 8 x 6 pixels"), "{error}");
        }
    }
}
