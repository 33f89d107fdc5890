//! The frozen tower's features, fused by the connector, on disk: computed once for all steps and stages that want them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::data::Dataset;
use crate::connector::Connector;
use crate::error::Error;
use crate::files::{Durability, OutputFile};
use crate::image::Preprocessor;
use crate::vision::Tower;
use crate::vlm::{FeatureSelection, fuse};

/// Encoder of images into features.
pub(crate) struct Encoder<'a> {
    /// The tower.
    pub tower: &'a Tower,
    /// The connector.
    pub connector: &'a dyn Connector,
    /// Selection of the connector's tokens from a hidden state.
    pub selection: FeatureSelection,
    /// Preparation of images.
    pub preprocessor: &'a Preprocessor,
    /// Device of the tower.
    pub device: &'a Device,
}

/// Features of all images of a dataset, as f16.
pub(crate) struct Features {
    path: PathBuf,
    file: Mutex<File>,
    n_tokens: usize,
    width: usize,
}

/// Images that go through the tower together.
const BATCH: usize = 32;
const BYTES: usize = 2;

impl Features {
    /// Opens the features in the file `path`, or computes them; `report` receives the number of encoded images.
    ///
    /// # Errors
    /// When an image cannot be read, or the disk refuses.
    pub(crate) fn open(
        path: &Path,
        data: &dyn Dataset,
        encoder: &Encoder,
        report: &mut dyn FnMut(usize),
    ) -> Result<Self, Error> {
        let config = encoder.tower.config();
        let n_tokens = encoder.connector.n_tokens(encoder.selection.n_tokens(config));
        let width = encoder.connector.width(encoder.selection.width(config));
        let size = (data.n_images() * n_tokens * width * BYTES) as u64;
        if std::fs::metadata(path).map_or(true, |found| found.len() != size) {
            compute(path, data, encoder, report)?;
        }
        let file = Mutex::new(File::open(path).map_err(Error::io(path))?);
        Ok(Self { path: path.to_owned(), file, n_tokens, width })
    }

    /// Tokens of an image.
    pub(crate) fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Returns the features of some images.
    ///
    /// # Shapes
    /// `(B, N', k D)`, f32, on the CPU.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn get(&self, indices: &[usize]) -> Result<Tensor, Error> {
        let stride = self.n_tokens * self.width * BYTES;
        let mut bytes = vec![0; indices.len() * stride];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        for (row, index) in bytes.chunks_exact_mut(stride).zip(indices) {
            let read = file.seek(SeekFrom::Start((index * stride) as u64)).and_then(|_| file.read_exact(row));
            read.map_err(Error::io(&self.path))?;
        }
        let shape = [indices.len(), self.n_tokens, self.width];
        let tensor = Tensor::from_raw_buffer(&bytes, DType::F16, &shape, &Device::Cpu);
        tensor.and_then(|t| t.to_dtype(DType::F32)).map_err(Error::compute("reading features"))
    }
}

fn compute(path: &Path, data: &dyn Dataset, encoder: &Encoder, report: &mut dyn FnMut(usize)) -> Result<(), Error> {
    let failed = Error::io(path);
    let mut file = OutputFile::create(path).map_err(&failed)?;
    let side = encoder.tower.config().image_size;
    let indices: Vec<usize> = (0..data.n_images()).collect();
    for (i, batch) in indices.chunks(BATCH).enumerate() {
        let pixels: Vec<Vec<f32>> =
            batch.par_iter().map(|&index| data.pixels(index, encoder.preprocessor)).collect::<Result<_, _>>()?;
        let encode = || {
            let pixels = Tensor::from_vec(pixels.concat(), (batch.len(), 3, side, side), encoder.device)?;
            let fused = fuse(encoder.tower, encoder.connector, encoder.selection, &pixels)?;
            fused.to_dtype(DType::F16)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<half::f16>()
        };
        let values = encode().map_err(Error::compute("encoding images"))?;
        let bytes: Vec<u8> = values.into_iter().flat_map(half::f16::to_le_bytes).collect();
        file.write_all(&bytes).map_err(&failed)?;
        report((i * BATCH + batch.len()).min(indices.len()));
    }
    file.finish(Durability::Synced).map_err(&failed)
}
