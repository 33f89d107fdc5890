//! Display orientation SEI messages of H.264 and HEVC, and the orientation of each frame by them.
//!
//! FFmpeg attaches a message to the frame that carries it. By the standards (ITU-T H.264, D.2.27; H.265, D.3.17) a
//! persistent message applies, in output order, to the following frames too, until the next message or a cancelling
//! message. By the standards it also ends where a new coded video sequence begins; encoders repeat the message there,
//! but often one access unit late, so here it persists. Messages are collected from packets, before they are decoded,
//! and looked up by presentation time.

use super::entry::Coding;
use super::frame::Orientation;
use super::framing::sei_number;

/// SEI payload type of the message in both standards.
const DISPLAY_ORIENTATION: usize = 47;

/// Orientations of a stream by its messages and the presentation times of frames.
#[derive(Debug, Clone)]
pub(super) struct DisplayOrientations {
    /// Coding of the stream, H.264 or HEVC; other streams have no such messages.
    coding: Option<Coding>,
    /// Changes, sorted by time.
    changes: Vec<OrientationChange>,
    /// Whether a message has no presentation time.
    has_untimed: bool,
}

/// Change of the orientation at the time `pts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OrientationChange {
    pts: i64,
    message: OrientationMessage,
}

/// Orientation message of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OrientationMessage {
    /// Cancels the message in force.
    Nothing,
    /// Applies to this frame alone.
    Once(Orientation),
    /// Applies to this frame and the following frames.
    FromHere(Orientation),
}

impl DisplayOrientations {
    pub(super) fn new(coding: Option<Coding>) -> Self {
        Self { coding, changes: Vec::new(), has_untimed: false }
    }

    /// Collects the messages of a packet.
    pub(super) fn take(&mut self, packet: &[u8], pts: Option<i64>) {
        let Some(message) = self.coding.and_then(|coding| orientation_message(coding, packet)) else { return };
        let Some(pts) = pts else {
            self.has_untimed = true;
            return;
        };
        let index = self.changes.partition_point(|change| change.pts < pts);
        match self.changes.get_mut(index).filter(|change| change.pts == pts) {
            Some(change) => change.message = message,
            None => self.changes.insert(index, OrientationChange { pts, message }),
        }
    }

    /// Returns whether all messages have times, so that the orientation of a frame follows from its time.
    pub(super) fn is_certain(&self) -> bool {
        !self.has_untimed
    }

    /// Returns the orientation of a frame with this presentation time, if a message applies to it.
    pub(super) fn at(&self, pts: i64) -> Option<Orientation> {
        let index = self.changes.partition_point(|change| change.pts <= pts);
        let change = self.changes.get(index.checked_sub(1)?)?;
        match change.message {
            OrientationMessage::FromHere(orientation) => Some(orientation),
            OrientationMessage::Once(orientation) if change.pts == pts => Some(orientation),
            OrientationMessage::Once(_) | OrientationMessage::Nothing => None,
        }
    }

    /// Returns the orientation of a frame where some messages have no times: by the message of its presentation time,
    /// by the display matrix `own` of the frame, or else that of the `last` frame.
    pub(super) fn following(
        &self,
        last: Option<Orientation>,
        pts: Option<i64>,
        own: Option<Orientation>,
    ) -> Option<Orientation> {
        let change = pts.and_then(|pts| self.changes.iter().rev().find(|change| change.pts == pts));
        match change.map(|change| change.message) {
            Some(OrientationMessage::FromHere(orientation) | OrientationMessage::Once(orientation)) => {
                Some(orientation)
            }
            Some(OrientationMessage::Nothing) => None,
            None => own.or(last),
        }
    }

    /// Returns whether the coding of the stream has such messages.
    pub(super) fn has_messages(&self) -> bool {
        self.coding.is_some()
    }
}

/// Reads the orientation message of a packet, if there is one.
fn orientation_message(coding: Coding, packet: &[u8]) -> Option<OrientationMessage> {
    let (framing, is_hevc) = match coding {
        Coding::H264(framing) => (framing, false),
        Coding::Hevc(framing) => (framing, true),
        Coding::FlaggedKeys | Coding::IntraOnly => return None,
    };
    let mut message = None;
    for unit in framing.units(packet) {
        let kind = unit.first().map(|byte| if is_hevc { byte >> 1 & 0x3f } else { byte & 0x1f })?;
        let (is_message, header, is_slice) = match is_hevc {
            // ITU-T H.264, table 7-1.
            false => (kind == 6, 1, (1..=5).contains(&kind)),
            // ITU-T H.265, table 7-1.
            true => (kind == 39, 2, kind <= 31),
        };
        if is_message {
            let payload = unescaped(unit.get(header..)?);
            message = find_message(&payload).map(|bits| read_message(bits, is_hevc)).or(message);
        }
        if is_slice {
            break;
        }
    }
    message
}

/// Removes the emulation prevention bytes of a unit (00 00 03).
fn unescaped(unit: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(unit.len());
    let mut n_zeros = 0;
    for &byte in unit {
        if n_zeros >= 2 && byte == 3 {
            n_zeros = 0;
            continue;
        }
        n_zeros = if byte == 0 { n_zeros + 1 } else { 0 };
        bytes.push(byte);
    }
    bytes
}

/// Returns the payload of the display orientation message among the messages of a unit.
fn find_message(messages: &[u8]) -> Option<&[u8]> {
    let mut rest = messages;
    while rest.len() > 2 {
        let (kind, size) = (sei_number(&mut rest)?, sei_number(&mut rest)?);
        let (message, others) = rest.split_at_checked(size)?;
        if kind == DISPLAY_ORIENTATION {
            return Some(message);
        }
        rest = others;
    }
    None
}

/// Reads a display orientation message: cancel u(1), horizontal flip u(1), vertical flip u(1), anticlockwise rotation
/// u(16) in 1/65536 of a turn; then the persistence, u(1) in HEVC and in H.264 a repetition period ue(v), whose 0 is
/// one frame.
fn read_message(payload: &[u8], is_hevc: bool) -> OrientationMessage {
    let bit = |i: usize| payload.get(i / 8).is_some_and(|byte| byte >> (7 - i % 8) & 1 == 1);
    if bit(0) {
        return OrientationMessage::Nothing;
    }
    let rotation = (3..19).fold(0_u32, |rotation, i| rotation << 1 | u32::from(bit(i)));
    let quarters = (rotation + (1 << 13)) >> 14 & 3;
    // In Exp-Golomb code a first bit of 1 is 0.
    let persists = if is_hevc { bit(19) } else { !bit(19) };
    match (orientation(bit(1), bit(2), quarters), persists) {
        // An upright message equals none: the container's orientation is in force.
        (Orientation::Upright, _) => OrientationMessage::Nothing,
        (orientation, true) => OrientationMessage::FromHere(orientation),
        (orientation, false) => OrientationMessage::Once(orientation),
    }
}

/// Returns the orientation of flips and then quarter turns anticlockwise.
fn orientation(is_flipped_horizontally: bool, is_flipped_vertically: bool, quarters: u32) -> Orientation {
    use Orientation::{
        AntiTranspose, FlipHorizontal, FlipVertical, Rotate90, Rotate180, Rotate270, Transpose, Upright,
    };
    // A vertical flip is a horizontal flip and half a turn.
    let half = if is_flipped_vertically { 2 } else { 0 };
    let quarters = (quarters + half) as usize % 4;
    match is_flipped_horizontally != is_flipped_vertically {
        false => [Upright, Rotate270, Rotate180, Rotate90][quarters],
        true => [FlipHorizontal, Transpose, FlipVertical, AntiTranspose][quarters],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::framing::Framing;

    /// Makes a packet of a message, in start codes, and a slice of this kind.
    fn packet(bits: &str, slice: u8) -> Vec<u8> {
        let mut bits = bits.to_owned();
        bits.push('1');
        while !bits.len().is_multiple_of(8) {
            bits.push('0');
        }
        let bytes: Vec<u8> =
            (0..bits.len()).step_by(8).map(|i| u8::from_str_radix(&bits[i..i + 8], 2).expect("bits")).collect();
        let size = u8::try_from(bytes.len()).expect("few");
        [&[0, 0, 1, 6, 47, size], &bytes[..], &[0x80, 0, 0, 1, slice, 9]].concat()
    }

    const H264: Coding = Coding::H264(Framing::StartCodes);
    /// A quarter turn anticlockwise is three quarter turns clockwise.
    const TURNED: &str = "000010000000000000001";

    #[test]
    fn a_message_applies_until_the_next_message() {
        let mut display = DisplayOrientations::new(Some(H264));
        let turn = |period: &str| format!("0000100000000000000{period}0");
        display.take(&packet(&turn("010"), 0x65), Some(0));
        // In decoding order: a later frame first.
        display.take(&[0, 0, 1, 0x41, 9], Some(30));
        display.take(&[0, 0, 1, 0x41, 9], Some(10));
        assert_eq!([-1, 0, 10, 30].map(|pts| display.at(pts)), {
            let turned = Some(Orientation::Rotate270);
            [None, turned, turned, turned]
        });
        // Half a turn of one frame alone, then a cancelled orientation.
        display.take(&packet("000100000000000000010", 0x41), Some(40));
        assert_eq!([40, 41].map(|pts| display.at(pts)), [Some(Orientation::Rotate180), None]);
        display.take(&packet(&turn("010"), 0x41), Some(50));
        display.take(&packet("1", 0x41), Some(60));
        assert_eq!([59, 60].map(|pts| display.at(pts)), [Some(Orientation::Rotate270), None]);
        // A sequence that begins without a message changes nothing.
        display.take(&packet(&turn("010"), 0x41), Some(70));
        display.take(&[0, 0, 1, 0x65, 9], Some(80));
        assert_eq!([79, 80].map(|pts| display.at(pts)), [Some(Orientation::Rotate270); 2]);
        assert!(display.is_certain());
        display.take(&packet(TURNED, 0x41), None);
        assert!(!display.is_certain());
        // Frame by frame: the message of the frame, else its own matrix, else the last orientation.
        let turned = Some(Orientation::Rotate90);
        assert_eq!(display.following(turned, Some(60), None), None);
        assert_eq!(display.following(None, Some(61), turned), turned);
        assert_eq!(display.following(turned, None, None), turned);
    }

    #[test]
    fn persistence_is_coded_differently_in_hevc() {
        let read = |bits: &str| {
            let h264 = packet(bits, 0x41);
            // The same payload behind headers of two bytes.
            let hevc = [&[0, 0, 1, 39 << 1, 1], &h264[4..h264.len() - 5], &[0, 0, 1, 1 << 1, 1]].concat();
            orientation_message(Coding::Hevc(Framing::StartCodes), &hevc)
        };
        assert_eq!(read("00001000000000000001"), Some(OrientationMessage::FromHere(Orientation::Rotate270)));
        assert_eq!(read("00001000000000000000"), Some(OrientationMessage::Once(Orientation::Rotate270)));
    }

    #[test]
    fn escaped_bytes_are_not_read() {
        assert_eq!(unescaped(&[47, 0, 0, 3, 1, 3, 0, 0, 3]), [47, 0, 0, 1, 3, 0, 0]);
        assert_eq!(orientation_message(H264, &[0, 0, 1]), None);
        assert_eq!(orientation_message(H264, &[0, 0, 1, 6, 47, 200, 1, 0, 0, 1, 0x41]), None);
    }
}
