//! The first tensor of a GGUF file in a format that candle does not read: candle's own error tells neither.
//!
//! Format: `docs/gguf.md` of ggml; the numbers of the formats: `enum ggml_type` in `ggml.h`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Numbers of the formats that candle reads.
const READ: [u32; 15] = [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 30];
/// Longer texts and lists stand in no real header.
const MAX_LENGTH: u64 = 1 << 32;

/// A tensor and the format that it is stored in.
pub(super) struct UnreadTensor {
    pub(super) name: String,
    pub(super) format: String,
}

/// Finds the first tensor in a format that is not read; `None` when there is none, or the header is malformed.
pub(super) fn first_unread(path: &Path) -> Option<UnreadTensor> {
    let mut header = GgufHeader { file: BufReader::new(File::open(path).ok()?), wide: true };
    header.find().ok().flatten()
}

struct GgufHeader {
    file: BufReader<File>,
    /// Whether lengths have 64 bits: since version 2.
    wide: bool,
}

impl GgufHeader {
    fn find(&mut self) -> io::Result<Option<UnreadTensor>> {
        if self.bytes::<4>()? != *b"GGUF" {
            return Ok(None);
        }
        self.wide = self.u32()? > 1;
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
            if !READ.contains(&format) {
                return Ok(Some(UnreadTensor { name, format: format_name(format) }));
            }
            self.skip(8)?; // the place of its values
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
        let n = if self.wide { u64::from_le_bytes(self.bytes()?) } else { u64::from(self.u32()?) };
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
        // Beyond the end there is nothing to skip.
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
