//! Names the first tensor of a GGUF file in a format that candle does not read; candle's error names neither tensor nor
//! format.
//!
//! Format: `docs/gguf.md` of ggml; the numbers of the formats: `enum ggml_type` in `ggml.h`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Numbers of the formats that candle reads.
const SUPPORTED: [u32; 15] = [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 30];
/// Limit of the length of strings and lists, beyond those of any real header.
const MAX_LENGTH: u64 = 1 << 32;

/// A tensor in an unsupported format.
pub(super) struct UnsupportedTensor {
    pub(super) name: String,
    pub(super) format: String,
}

/// Finds the first tensor in an unsupported format; `None` without such a tensor, or for a malformed header.
pub(super) fn first_unsupported(path: &Path) -> Option<UnsupportedTensor> {
    let mut header = GgufHeader { file: BufReader::new(File::open(path).ok()?), has_64_bit_lengths: true };
    header.find().ok().flatten()
}

struct GgufHeader {
    file: BufReader<File>,
    /// Whether lengths have 64 bits, as since version 2.
    has_64_bit_lengths: bool,
}

impl GgufHeader {
    fn find(&mut self) -> io::Result<Option<UnsupportedTensor>> {
        if self.bytes::<4>()? != *b"GGUF" {
            return Ok(None);
        }
        self.has_64_bit_lengths = self.u32()? > 1;
        let (n_tensors, n_keys) = (self.length()?, self.length()?);
        for _ in 0..n_keys {
            self.text()?;
            let kind = self.u32()?;
            self.skip_value(kind)?;
        }
        for _ in 0..n_tensors {
            let name = self.text()?;
            for _ in 0..self.u32()? {
                self.length()?;
            }
            let format = self.u32()?;
            if !SUPPORTED.contains(&format) {
                return Ok(Some(UnsupportedTensor { name, format: format_name(format) }));
            }
            self.skip(8)?; // offset of the values
        }
        Ok(None)
    }

    fn skip_value(&mut self, kind: u32) -> io::Result<()> {
        match kind {
            0 | 1 | 7 => self.skip(1),
            2 | 3 => self.skip(2),
            4..=6 => self.skip(4),
            10..=12 => self.skip(8),
            8 => self.text().map(drop),
            9 => {
                let (kind, n) = (self.u32()?, self.length()?);
                (0..n).try_for_each(|_| self.skip_value(kind))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn text(&mut self) -> io::Result<String> {
        let n = self.length()?;
        let mut bytes = Vec::new();
        self.file.by_ref().take(n).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn length(&mut self) -> io::Result<u64> {
        let n = if self.has_64_bit_lengths { u64::from_le_bytes(self.bytes()?) } else { u64::from(self.u32()?) };
        if n > MAX_LENGTH { Err(io::ErrorKind::InvalidData.into()) } else { Ok(n) }
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn skip(&mut self, n: i64) -> io::Result<()> {
        self.file.seek_relative(n)?;
        // `seek_relative` does not fail beyond the end of the file.
        if self.file.fill_buf()?.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

fn format_name(number: u32) -> String {
    let name = match number {
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        other => return format!("number {other}"),
    };
    name.to_owned()
}
