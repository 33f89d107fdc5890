//! Rows of a matrix that stays in its file, such as an embedding table, of which a prompt needs few rows.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::tensor::Metadata;

use crate::error::About as _;

/// Length in bytes of the prefix of a safetensors file: the length of its header.
const PREFIX: usize = 8;

/// Matrix in an open safetensors file, whose rows are read on demand.
#[derive(Debug)]
pub struct StoredRows {
    file: File,
    path: PathBuf,
    name: String,
    /// Offset of the matrix in the file, in bytes.
    begin: u64,
    n_rows: usize,
    width: usize,
    dtype: DType,
}

impl StoredRows {
    /// Opens the tensor `name` of a file, or returns `None` for other tensors than matrices in f32, f16 or bf16.
    pub(super) fn open(path: &Path, name: &str) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let header = read_header(&file)?;
        let metadata: Metadata = serde_json::from_slice(&header)?;
        let Some(info) = metadata.info(name) else { return Ok(None) };
        let (Ok(dtype), &[n_rows, width]) = (DType::try_from(info.dtype), &*info.shape) else { return Ok(None) };
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Ok(None);
        }
        let begin = (PREFIX + header.len() + info.data_offsets.0) as u64;
        Ok(Some(Self { file, path: path.to_owned(), name: name.to_owned(), begin, n_rows, width, dtype }))
    }

    /// Reads rows by index.
    ///
    /// # Shapes
    /// `n` indices to `(n, width)`, in f32 on the CPU.
    ///
    /// # Errors
    /// An index beyond the matrix, or a file that has become unreadable.
    pub fn read(&self, indices: &[u32]) -> candle_core::Result<Tensor> {
        let n_bytes = self.width * self.dtype.size_in_bytes();
        let (mut bytes, mut rows) = (vec![0; n_bytes], Vec::with_capacity(indices.len() * self.width));
        for &index in indices {
            if index as usize >= self.n_rows {
                candle_core::bail!("row {index} of {}, which has {} rows", self.name, self.n_rows);
            }
            let read = read_at(&self.file, &mut bytes, self.begin + u64::from(index) * n_bytes as u64);
            read.about(format!("tensor {}", self.name)).about(&self.path)?;
            self.convert(&bytes, &mut rows);
        }
        Tensor::from_vec(rows, (indices.len(), self.width), &Device::Cpu)
    }

    fn convert(&self, bytes: &[u8], rows: &mut Vec<f32>) {
        let (pairs, fours) = (bytes.as_chunks().0, bytes.as_chunks().0);
        match self.dtype {
            DType::F16 => rows.extend(pairs.iter().map(|&pair| f16::from_le_bytes(pair).to_f32())),
            DType::BF16 => rows.extend(pairs.iter().map(|&pair| bf16::from_le_bytes(pair).to_f32())),
            _ => rows.extend(fours.iter().map(|&four| f32::from_le_bytes(four))),
        }
    }
}

/// Reads the header of a safetensors file: JSON after its length.
fn read_header(file: &File) -> io::Result<Vec<u8>> {
    let mut prefix = [0; PREFIX];
    read_at(file, &mut prefix, 0)?;
    let length = u64::from_le_bytes(prefix);
    if length > file.metadata()?.len() {
        return Err(io::Error::other(format!("a header of {length} bytes is longer than the file")));
    }
    let mut header = vec![0; length as usize];
    read_at(file, &mut header, PREFIX as u64)?;
    Ok(header)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (bytes, offset) = (&mut bytes[n..], offset + n as u64),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn rows_are_those_of_the_tensor_in_each_precision() {
        let elements: Vec<f32> = (0..7 * 5).map(|i| (i as f32).sin()).collect();
        let table = Tensor::from_vec(elements, (7, 5), &Device::Cpu).expect("small");
        let dir = tempfile::tempdir().expect("a temporary directory");
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let path = dir.path().join("model.safetensors");
            let table = table.to_dtype(dtype).expect("a precision of the CPU");
            let other = Tensor::ones(3, DType::F32, &Device::Cpu).expect("small");
            candle_core::safetensors::save(&HashMap::from([("a", other), ("table", table.clone())]), &path)
                .expect("a small file");
            let rows = StoredRows::open(&path, "table").expect("a good file").expect("a matrix");
            let found = rows.read(&[6, 0, 3, 3]).and_then(|rows| rows.to_vec2::<f32>()).expect("in range");
            let ids = Tensor::new(&[6u32, 0, 3, 3], &Device::Cpu).expect("small");
            let expected = table.to_dtype(DType::F32).and_then(|table| table.index_select(&ids, 0)).expect("in range");
            assert_eq!(found, expected.to_vec2::<f32>().expect("rank 2"));
            let error = rows.read(&[7]).expect_err("beyond the table").to_string();
            assert!(error.contains("row 7 of table, which has 7 rows"), "{error}");
            assert!(StoredRows::open(&path, "a").expect("a good file").is_none());
        }
    }

    #[test]
    fn a_truncated_file_is_an_error() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("model.safetensors");
        let table = Tensor::ones((64, 64), DType::F32, &Device::Cpu).expect("small");
        candle_core::safetensors::save(&HashMap::from([("table", table)]), &path).expect("a small file");
        let rows = StoredRows::open(&path, "table").expect("a good file").expect("a matrix");
        File::options().write(true).open(&path).and_then(|file| file.set_len(5000)).expect("room");
        assert!(rows.read(&[0]).is_ok());
        let error = rows.read(&[63]).expect_err("cut").to_string();
        assert!(error.contains("model.safetensors: tensor table: "), "{error}");
        std::fs::write(&path, u64::MAX.to_le_bytes()).expect("room");
        let error = StoredRows::open(&path, "table").expect_err("no header").to_string();
        assert!(error.contains("longer than the file"), "{error}");
    }
}
