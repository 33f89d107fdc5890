//! Entry points of a coded stream: the packets where decoding may begin, by their first bytes. No packet is decoded
//! here.
//!
//! Key flags of containers are not enough: files flag pictures that depend on earlier pictures (periodic intra refresh,
//! open groups of pictures), or flag every packet. Called by `demux` for each packet of a scan. "Picture" is the
//! standards' word for a coded frame or field (ITU-T H.264, H.265).

use super::framing::{Framing, Units, sei_number};

/// Coding of a stream, which decides how packets are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// H.264 (ITU-T H.264).
    H264(Framing),
    /// HEVC (ITU-T H.265).
    Hevc(Framing),
    /// Codings whose key pictures reset all references: VP9, AV1.
    FlaggedKeys,
    /// Codings without references between pictures.
    IntraOnly,
}

/// Role of a packet as the first packet of a decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PacketRole {
    /// All pictures shown later decode correctly.
    Entry,
    /// An entry by a recovery point message; decoders drop pictures before the first picture that they output.
    Recovery,
    /// The picture depends on earlier packets.
    Inside,
    /// The picture depends on earlier packets, and the packet has parameter sets that later packets may need, which a
    /// decoding that begins later would miss.
    Parameters,
}

impl PacketRole {
    /// Returns whether decoding may begin with the packet.
    pub(super) fn is_entry(self) -> bool {
        matches!(self, Self::Entry | Self::Recovery)
    }
}

/// Kind of a picture by the pictures around it in output order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PictureKind {
    /// First picture of a coded video sequence, which restarts the picture order count.
    Sequence,
    /// First picture of a sequence whose leading pictures cannot be decoded.
    BrokenLink,
    /// Random access picture: decoding may begin here, the picture order count goes on.
    RandomAccess,
    /// Leading picture: shown before the random access picture that it follows, and dependent on earlier pictures.
    Leading,
    /// Any other picture.
    None,
}

impl Coding {
    /// Returns the kind of the picture of a packet of H.264 or HEVC.
    pub(super) fn picture_kind(self, packet: &[u8]) -> PictureKind {
        let Some(kind) = self.units(packet).find_map(|unit| self.slice(unit)) else { return PictureKind::None };
        match (self, kind) {
            (Self::H264(_), 5) => PictureKind::Sequence,
            // ITU-T H.265, table 7-1: RASL, BLA, IDR, CRA.
            (Self::Hevc(_), 8 | 9) => PictureKind::Leading,
            (Self::Hevc(_), 16..=18) => PictureKind::BrokenLink,
            (Self::Hevc(_), 19 | 20) => PictureKind::Sequence,
            (Self::Hevc(_), 21) => PictureKind::RandomAccess,
            _ => PictureKind::None,
        }
    }

    /// Returns a packet of H.264 or HEVC up to its first slice, of which `limit` bytes are kept.
    pub(super) fn head(self, packet: &[u8], limit: usize) -> Vec<u8> {
        let (Self::H264(framing) | Self::Hevc(framing)) = self else { return Vec::new() };
        let mut head = Vec::with_capacity(limit);
        for unit in self.units(packet) {
            let is_slice = self.slice(unit).is_some();
            framing.write(if is_slice { &unit[..unit.len().min(limit)] } else { unit }, &mut head);
            if is_slice {
                break;
            }
        }
        head
    }

    /// Returns whether the picture of a packet has several slices.
    pub(super) fn is_sliced(self, packet: &[u8]) -> bool {
        self.units(packet).filter(|unit| self.slice(unit).is_some()).nth(1).is_some()
    }

    fn units(self, packet: &[u8]) -> Units<'_> {
        match self {
            Self::H264(framing) | Self::Hevc(framing) => framing.units(packet),
            Self::FlaggedKeys | Self::IntraOnly => Framing::StartCodes.units(&[]),
        }
    }

    /// Returns the type of a unit, if the unit is a slice.
    fn slice(self, unit: &[u8]) -> Option<u8> {
        let first = *unit.first()?;
        match self {
            Self::H264(_) => Some(first & 0x1f).filter(|kind| (1..=5).contains(kind)),
            Self::Hevc(_) => Some(first >> 1 & 0x3f).filter(|&kind| kind < 32),
            Self::FlaggedKeys | Self::IntraOnly => None,
        }
    }

    /// Returns the role of a packet, which its container may flag as key.
    pub(super) fn role(self, packet: &[u8], is_flagged_key: bool) -> PacketRole {
        match self {
            Self::IntraOnly => PacketRole::Entry,
            Self::FlaggedKeys if is_flagged_key => PacketRole::Entry,
            Self::FlaggedKeys => PacketRole::Inside,
            Self::H264(framing) => h264_role(framing.units(packet)),
            Self::Hevc(framing) => hevc_role(framing.units(packet)),
        }
    }

    /// Returns whether non-reference pictures are flagged, so that a decoder may skip them.
    pub(super) fn flags_unreferenced(self) -> bool {
        matches!(self, Self::H264(_))
    }
}

/// Role of a packet of H.264 (ITU-T H.264, table 7-1), decided by the units before the first slice.
fn h264_role(units: Units<'_>) -> PacketRole {
    let (mut is_recovery, mut has_parameters) = (false, false);
    for unit in units {
        match unit.first().map(|byte| byte & 0x1f) {
            Some(5) => return PacketRole::Entry,
            Some(1..=4) => break,
            Some(6) => is_recovery |= recovers_at_once(&unit[1..]),
            Some(7 | 8 | 13 | 15) => has_parameters = true,
            _ => {}
        }
    }
    match (is_recovery, has_parameters) {
        (true, _) => PacketRole::Recovery,
        (false, true) => PacketRole::Parameters,
        (false, false) => PacketRole::Inside,
    }
}

/// Returns whether messages have a recovery point after which, at once and exactly, all pictures are correct (annex
/// D.2.8).
fn recovers_at_once(messages: &[u8]) -> bool {
    const RECOVERY_POINT: usize = 6;
    let mut rest = messages;
    // A byte of 0x80 ends the messages.
    while rest.len() > 2 {
        let (Some(kind), Some(size)) = (sei_number(&mut rest), sei_number(&mut rest)) else { return false };
        let Some((message, others)) = rest.split_at_checked(size) else { return false };
        if kind == RECOVERY_POINT {
            // The first bit set: no frame until recovery, in Exp-Golomb code. The second: an exact match.
            return message.first().is_some_and(|byte| byte & 0xc0 == 0xc0);
        }
        rest = others;
    }
    false
}

/// Role of a packet of HEVC (ITU-T H.265, table 7-1): after a random access picture all pictures shown later decode
/// correctly.
fn hevc_role(units: Units<'_>) -> PacketRole {
    let mut has_parameters = false;
    for unit in units {
        match unit.first().map(|byte| byte >> 1 & 0x3f) {
            Some(16..=21) => return PacketRole::Entry,
            Some(0..=31) => break,
            Some(32..=34) => has_parameters = true,
            _ => {}
        }
    }
    if has_parameters { PacketRole::Parameters } else { PacketRole::Inside }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H264: Coding = Coding::H264(Framing::StartCodes);

    #[test]
    fn slices_decide_whether_decoding_may_begin() {
        let packet =
            |units: &[&[u8]]| units.iter().flat_map(|unit| [&[0, 0, 0, 1], *unit].concat()).collect::<Vec<u8>>();
        for (units, role) in [
            // Parameters, then an instantaneous refresh.
            (&[&[0x67, 1][..], &[0x68, 1], &[0x65, 1]][..], PacketRole::Entry),
            (&[&[0x41, 1]], PacketRole::Inside),
            (&[&[0x68, 1], &[0x41, 1]], PacketRole::Parameters),
            // Recovery points: at once and exact; after frames; not exact.
            (&[&[6, 6, 1, 0xc4, 0x80], &[0x41, 1]], PacketRole::Recovery),
            (&[&[6, 6, 1, 0x64, 0x80], &[0x41, 1]], PacketRole::Inside),
            (&[&[6, 6, 1, 0x84, 0x80], &[0x41, 1]], PacketRole::Inside),
            // Behind another message.
            (&[&[6, 5, 2, 9, 9, 6, 1, 0xc4, 0x80], &[0x41, 1]], PacketRole::Recovery),
            (&[], PacketRole::Inside),
        ] {
            assert_eq!(H264.role(&packet(units), true), role, "{units:?}");
        }
        let hevc = Coding::Hevc(Framing::StartCodes);
        assert_eq!(hevc.role(&packet(&[&[32 << 1, 1], &[21 << 1, 1]]), false), PacketRole::Entry);
        assert_eq!(hevc.role(&packet(&[&[1 << 1, 1]]), true), PacketRole::Inside);
        assert_eq!(hevc.role(&packet(&[&[34 << 1, 1], &[1 << 1, 1]]), true), PacketRole::Parameters);
    }

    #[test]
    fn the_head_of_a_packet_ends_within_its_first_slice() {
        let hevc = Coding::Hevc(Framing::Lengths(2));
        let packet = [0, 2, 34 << 1, 1, 0, 4, 21 << 1, 1, 5, 6, 0, 2, 1 << 1, 1];
        assert_eq!(hevc.head(&packet, 3), [0, 2, 34 << 1, 1, 0, 3, 21 << 1, 1, 5]);
        assert_eq!(
            (hevc.picture_kind(&packet), hevc.picture_kind(&packet[10..])),
            (PictureKind::RandomAccess, PictureKind::None)
        );
        assert_eq!(H264.head(&[0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 2, 3], 2), [0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 2]);
        assert_eq!(H264.picture_kind(&[0, 0, 1, 0x65]), PictureKind::Sequence);
        assert_eq!(Coding::FlaggedKeys.head(&packet, 3), [0; 0]);
        assert!(hevc.is_sliced(&packet) && !hevc.is_sliced(&packet[..10]));
    }

    #[test]
    fn other_codings_go_by_their_key_flags() {
        assert_eq!(Coding::FlaggedKeys.role(&[], true), PacketRole::Entry);
        assert_eq!(Coding::FlaggedKeys.role(&[], false), PacketRole::Inside);
        assert_eq!(Coding::IntraOnly.role(&[], false), PacketRole::Entry);
        // Nonsense, without a panic.
        assert_eq!(Coding::H264(Framing::Lengths(4)).role(&[255; 9], true), PacketRole::Inside);
    }
}
