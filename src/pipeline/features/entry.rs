//! Format of a cache entry: a safetensors file with the visual tokens and the thumbnail, and in its metadata the
//! video's frames and report, and a hash over everything.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, View};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};
use crate::pipeline::{EncodedVideo, FrameStamp, Timings};
use crate::temporal::{AnyRes, Temporal};
use crate::video::ReadReport;

const VISUAL: &str = "visual";
const THUMBNAIL: &str = "thumbnail";
const FACTS: &str = "vidense";
const HASH: &str = "blake3";

/// Metadata of a video beside its tokens.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    frames: Vec<FrameStamp>,
    report: ReadReport,
    /// Tiles of a single image that AnyRes encoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    any_res: Option<AnyRes>,
}

/// Serializes an entry.
pub(super) fn write(video: &EncodedVideo) -> Result<Vec<u8>, Error> {
    let any_res = match video.temporal {
        Temporal::AnyRes(any_res) => Some(any_res),
        _ => None,
    };
    let facts = Facts { frames: video.frames.clone(), report: video.report.clone(), any_res };
    let facts = serde_json::to_string(&facts).map_err(|error| Error::caused_by(Kind::Invalid, error))?;
    let visual = video.visual.contiguous()?;
    let (dtype, values) = (View::dtype(&visual), visual.data());
    let thumbnail = video.thumbnail.as_deref().unwrap_or_default();
    let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data).map_err(invalid);
    let visual = view(dtype, visual.dims(), &values)?;
    let hash = hash(&facts, &visual, thumbnail);
    let tensors = [(VISUAL, visual), (THUMBNAIL, view(Dtype::U8, &[thumbnail.len()], thumbnail)?)];
    let metadata = HashMap::from([(FACTS.to_owned(), facts), (HASH.to_owned(), hash)]);
    safetensors::serialize(tensors, Some(metadata)).map_err(invalid)
}

/// Deserializes an entry, whose frames `temporal` aggregated, to the CPU.
///
/// # Errors
/// When the bytes are damaged.
pub(super) fn read(bytes: &[u8], temporal: Temporal) -> Result<EncodedVideo, Error> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(invalid)?;
    let metadata = metadata.metadata().as_ref().ok_or_else(|| Error::invalid("no metadata"))?;
    let (facts, expected) = (metadata.get(FACTS), metadata.get(HASH));
    let (facts, expected) = facts.zip(expected).ok_or_else(|| Error::invalid("metadata of another program"))?;
    let visual = tensors.tensor(VISUAL).map_err(invalid)?;
    let thumbnail = tensors.tensor(THUMBNAIL).map_err(invalid)?;
    if hash(facts, &visual, thumbnail.data()) != *expected {
        return Err(Error::invalid("damaged: the hash does not match"));
    }
    let facts: Facts = serde_json::from_str(facts).map_err(|error| Error::caused_by(Kind::Invalid, error))?;
    let Facts { frames, report, any_res } = facts;
    let dtype = DType::try_from(visual.dtype())?;
    let visual = Tensor::from_raw_buffer(visual.data(), dtype, visual.shape(), &Device::Cpu)?;
    let thumbnail = Some(thumbnail.data().to_vec()).filter(|jpeg| !jpeg.is_empty());
    let temporal = any_res.map_or(temporal, Temporal::AnyRes);
    Ok(EncodedVideo { visual, frames, report, temporal, timings: Timings::default(), thumbnail, is_cached: true })
}

fn invalid(error: safetensors::SafeTensorError) -> Error {
    Error::caused_by(Kind::Invalid, error)
}

fn hash(facts: &str, visual: &TensorView<'_>, thumbnail: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(facts.as_bytes());
    hasher.update(format!("{:?} {:?}", visual.dtype(), visual.shape()).as_bytes());
    hasher.update(&(visual.data().len() as u64).to_le_bytes());
    hasher.update(visual.data());
    hasher.update(thumbnail);
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temporal::Unpad;
    use crate::units::{FrameIndex, Seconds};

    fn video(dtype: DType) -> EncodedVideo {
        let visual = Tensor::arange(0f32, 12.0, &Device::Cpu).and_then(|t| t.reshape((4, 3))?.to_dtype(dtype));
        EncodedVideo {
            visual: visual.expect("small"),
            frames: vec![FrameStamp { index: FrameIndex(3), time_seconds: Some(Seconds(0.1 + 0.2)) }],
            report: ReadReport { n_frames: 9, n_inside: 9, ..ReadReport::default() },
            temporal: Temporal::D2,
            timings: Timings::default(),
            thumbnail: Some(vec![1, 2, 3]),
            is_cached: false,
        }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let video = video(dtype);
            let bytes = write(&video).expect("it is whole");
            let read = read(&bytes, Temporal::D2).expect("it is whole");
            let rows = |tensor: &Tensor| tensor.to_dtype(DType::F32).and_then(|t| t.to_vec2::<f32>()).expect("2-D");
            assert_eq!((read.visual.dtype(), rows(&read.visual)), (dtype, rows(&video.visual)));
            assert_eq!((read.frames, read.report, read.thumbnail), (video.frames, video.report, video.thumbnail));
            assert!(read.is_cached && read.temporal == Temporal::D2);
        }
    }

    #[test]
    fn a_single_image_keeps_its_tiles() {
        let any_res = AnyRes { image: (1000, 300), rows: 1, columns: 3, unpad: Unpad::Rounded, max_tiles: Some(9) };
        let video = EncodedVideo { temporal: Temporal::AnyRes(any_res), ..video(DType::F32) };
        let bytes = write(&video).expect("it is whole");
        assert_eq!(read(&bytes, Temporal::D2).expect("it is whole").temporal, Temporal::AnyRes(any_res));
    }

    #[test]
    fn any_damaged_byte_and_any_cut_is_found() {
        let bytes = write(&video(DType::F32)).expect("it is whole");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            // Another byte of padding does not change what is read, nor does another name of an absent key.
            if let Ok(read) = read(&damaged, Temporal::D2) {
                let rows = read.visual.to_vec2::<f32>().expect("2-D");
                assert_eq!(rows[3], [9.0, 10.0, 11.0], "byte {at}");
            }
        }
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length], Temporal::D2).is_err(), "cut at {length}");
        }
    }
}
