//! FFmpeg: orientation of frames by metadata: the container's display matrix, EXIF data of images, matrices of frames.

use std::path::Path;

use ffmpeg::format::context::Input;
use ffmpeg::{frame, packet};
use ffmpeg_next as ffmpeg;

use crate::video::demux::is_image;
use crate::video::frame::Orientation;
use crate::video::images::exif_orientation;

/// Returns the orientation by the container; of a single image by its EXIF data, which FFmpeg reads in JPEG alone.
pub(in crate::video) fn container_orientation(path: &Path, input: &Input, stream: &ffmpeg::Stream) -> Orientation {
    let by_exif = is_image(input).then(|| exif_orientation(path)).flatten();
    by_exif.unwrap_or_else(|| orientation_of(stream))
}

fn orientation_of(stream: &ffmpeg::Stream) -> Orientation {
    stream
        .side_data()
        .find(|data| data.kind() == packet::side_data::Type::DisplayMatrix)
        .and_then(|data| parse_matrix(data.data()))
        .map_or(Orientation::Upright, |matrix| Orientation::from_display_matrix(&matrix))
}

/// Returns the orientation by the display matrix of a frame, which FFmpeg makes of messages of H.264 and HEVC.
pub(super) fn frame_orientation(frame: &frame::Video) -> Option<Orientation> {
    let data = frame.side_data(frame::side_data::Type::DisplayMatrix)?;
    parse_matrix(data.data()).map(|matrix| Orientation::from_display_matrix(&matrix))
}

fn parse_matrix(bytes: &[u8]) -> Option<[i32; 9]> {
    let mut matrix = [0; 9];
    for (cell, bytes) in matrix.iter_mut().zip(bytes.get(..36)?.chunks_exact(4)) {
        *cell = i32::from_ne_bytes(bytes.try_into().ok()?);
    }
    Some(matrix)
}
