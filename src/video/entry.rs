//! Where decoding may begin: what a packet's first bytes say of it. No packet is decoded here.
//!
//! A container's marks are not enough: files mark pictures as key that show what came before them (periodic intra
//! refresh, open groups of pictures), or mark every packet.

/// A coded stream, as far as its packets are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// H.264 (ITU-T H.264).
    H264(Framing),
    /// HEVC (ITU-T H.265).
    Hevc(Framing),
    /// Each picture that is marked as key lets go of all before it: VP9, AV1.
    MarkedKeys,
    /// Every picture stands for itself.
    IntraOnly,
}

/// How units follow each other in a packet of H.264 or HEVC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Behind a length of so many bytes (ISO 14496-15).
    Lengths(usize),
    /// Behind start codes (annex B).
    StartCodes,
}

impl Role {
    /// Whether decoding may begin here.
    pub(super) fn is_entry(self) -> bool {
        matches!(self, Self::Entry | Self::Recovery)
    }
}

/// What a packet is for decoding that would begin with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// From here on every picture that is shown later comes out right.
    Entry,
    /// As [`Self::Entry`], by a message; decoders hold back what they decode before the first picture that they show.
    Recovery,
    /// It needs others.
    Inside,
    /// It needs others, and brings parameters that later ones may need: who begins after it would miss them.
    Parameters,
}

/// How a picture stands to those around it in output order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// The first picture of a sequence, which numbers its pictures anew.
    Sequence,
    /// As [`Self::Sequence`], and pictures that lead it cannot be decoded.
    BrokenLink,
    /// Decoding may begin with it, numbers go on.
    RandomAccess,
    /// A picture shown before the random access picture that it follows; it needs the pictures before that one.
    Leading,
    /// Any other picture.
    None,
}

impl Coding {
    /// How the picture of a packet of H.264 or HEVC stands to others.
    pub(super) fn start(self, packet: &[u8]) -> Start {
        let Some(kind) = self.units(packet).find_map(|unit| self.slice(unit)) else { return Start::None };
        match (self, kind) {
            (Self::H264(_), 5) => Start::Sequence,
            // ITU-T H.265, table 7-1: RASL, BLA, IDR, CRA.
            (Self::Hevc(_), 8 | 9) => Start::Leading,
            (Self::Hevc(_), 16..=18) => Start::BrokenLink,
            (Self::Hevc(_), 19 | 20) => Start::Sequence,
            (Self::Hevc(_), 21) => Start::RandomAccess,
            _ => Start::None,
        }
    }

    /// A packet of H.264 or HEVC up to its first slice, of which `limit` bytes are kept.
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

    /// Whether the picture of a packet is cut into several slices.
    pub(super) fn is_sliced(self, packet: &[u8]) -> bool {
        self.units(packet).filter(|unit| self.slice(unit).is_some()).nth(1).is_some()
    }

    fn units(self, packet: &[u8]) -> Units<'_> {
        match self {
            Self::H264(framing) | Self::Hevc(framing) => framing.units(packet),
            Self::MarkedKeys | Self::IntraOnly => Framing::StartCodes.units(&[]),
        }
    }

    /// The kind of a unit, if it is a slice.
    fn slice(self, unit: &[u8]) -> Option<u8> {
        let first = *unit.first()?;
        match self {
            Self::H264(_) => Some(first & 0x1f).filter(|kind| (1..=5).contains(kind)),
            Self::Hevc(_) => Some(first >> 1 & 0x3f).filter(|&kind| kind < 32),
            Self::MarkedKeys | Self::IntraOnly => None,
        }
    }

    /// The role of a packet, which its container marks as key or not.
    pub(super) fn role(self, packet: &[u8], is_marked: bool) -> Role {
        match self {
            Self::IntraOnly => Role::Entry,
            Self::MarkedKeys if is_marked => Role::Entry,
            Self::MarkedKeys => Role::Inside,
            Self::H264(framing) => h264(framing.units(packet)),
            Self::Hevc(framing) => hevc(framing.units(packet)),
        }
    }

    /// Whether pictures that no other one needs say so, which a decoder may then pass over.
    pub(super) fn tells_unneeded(self) -> bool {
        matches!(self, Self::H264(_))
    }
}

impl Framing {
    /// From the description of a stream: `avcC` or `hvcC`, whose byte `at` ends with the size of lengths, or start
    /// codes.
    pub(super) fn of(extradata: &[u8], at: usize) -> Self {
        match extradata {
            [1, ..] if extradata.len() > at => Self::Lengths(usize::from(extradata[at] & 3) + 1),
            _ => Self::StartCodes,
        }
    }

    /// Appends a unit. One that is longer than its length can tell is cut.
    fn write(self, unit: &[u8], to: &mut Vec<u8>) {
        match self {
            Self::StartCodes => {
                to.extend_from_slice(&[0, 0, 1]);
                to.extend_from_slice(unit);
            }
            Self::Lengths(size) => {
                let longest = u32::MAX.checked_shr(32 - 8 * size as u32).unwrap_or(0) as usize;
                let unit = &unit[..unit.len().min(longest)];
                to.extend_from_slice(&(unit.len() as u32).to_be_bytes()[4 - size..]);
                to.extend_from_slice(unit);
            }
        }
    }

    /// The units of a packet, without what stands between them.
    pub(super) fn units(self, packet: &[u8]) -> Units<'_> {
        Units { rest: packet, framing: self }
    }
}

pub(super) struct Units<'p> {
    rest: &'p [u8],
    framing: Framing,
}

impl<'p> Iterator for Units<'p> {
    type Item = &'p [u8];

    fn next(&mut self) -> Option<&'p [u8]> {
        match self.framing {
            Framing::Lengths(size) => {
                let (length, rest) = self.rest.split_at_checked(size)?;
                let length = length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
                let (unit, rest) = rest.split_at_checked(length)?;
                self.rest = rest;
                Some(unit)
            }
            Framing::StartCodes => {
                let begin = start_code(self.rest)? + 3;
                let rest = &self.rest[begin..];
                let end = start_code(rest).unwrap_or(rest.len());
                self.rest = &rest[end..];
                Some(&rest[..end])
            }
        }
    }
}

/// Where the next start code is, `00 00 01`.
fn start_code(bytes: &[u8]) -> Option<usize> {
    let mut last = 2;
    while let Some(&byte) = bytes.get(last) {
        match byte {
            1 if bytes[last - 2..last] == [0, 0] => return Some(last - 2),
            0 => last += 1,
            // No start code has this byte before its end.
            _ => last += 3,
        }
    }
    None
}

/// ITU-T H.264, table 7-1: what comes before the first slice decides.
fn h264(units: Units<'_>) -> Role {
    let (mut is_recovery, mut has_parameters) = (false, false);
    for unit in units {
        match unit.first().map(|byte| byte & 0x1f) {
            Some(5) => return Role::Entry,
            Some(1..=4) => break,
            Some(6) => is_recovery |= recovers_at_once(&unit[1..]),
            Some(7 | 8 | 13 | 15) => has_parameters = true,
            _ => {}
        }
    }
    match (is_recovery, has_parameters) {
        (true, _) => Role::Recovery,
        (false, true) => Role::Parameters,
        (false, false) => Role::Inside,
    }
}

/// Whether messages have a recovery point after which, at once and exactly, all pictures are right (annex D.2.8).
fn recovers_at_once(messages: &[u8]) -> bool {
    const RECOVERY_POINT: usize = 6;
    let mut rest = messages;
    // What ends the messages is a byte of 0x80.
    while rest.len() > 2 {
        let (Some(kind), Some(size)) = (number(&mut rest), number(&mut rest)) else { return false };
        let Some((message, others)) = rest.split_at_checked(size) else { return false };
        if kind == RECOVERY_POINT {
            // The first bit set: no frame until recovery, in Exp-Golomb code. The second: an exact match.
            return message.first().is_some_and(|byte| byte & 0xc0 == 0xc0);
        }
        rest = others;
    }
    false
}

/// A number of messages: bytes of 255, and the one that ends it.
pub(super) fn number(bytes: &mut &[u8]) -> Option<usize> {
    let mut sum = 0;
    loop {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        sum += usize::from(byte);
        if byte != 255 {
            return Some(sum);
        }
    }
}

/// ITU-T H.265, table 7-1: a picture of random access lets all that is shown after it come out right.
fn hevc(units: Units<'_>) -> Role {
    let mut has_parameters = false;
    for unit in units {
        match unit.first().map(|byte| byte >> 1 & 0x3f) {
            Some(16..=21) => return Role::Entry,
            Some(0..=31) => break,
            Some(32..=34) => has_parameters = true,
            _ => {}
        }
    }
    if has_parameters { Role::Parameters } else { Role::Inside }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H264: Coding = Coding::H264(Framing::StartCodes);

    #[test]
    fn slices_tell_whether_decoding_may_begin() {
        let packet =
            |units: &[&[u8]]| units.iter().flat_map(|unit| [&[0, 0, 0, 1], *unit].concat()).collect::<Vec<u8>>();
        for (units, role) in [
            // Parameters, then an instantaneous refresh.
            (&[&[0x67, 1][..], &[0x68, 1], &[0x65, 1]][..], Role::Entry),
            (&[&[0x41, 1]], Role::Inside),
            (&[&[0x68, 1], &[0x41, 1]], Role::Parameters),
            // A recovery point at once and exact; one after frames; one that is not exact.
            (&[&[6, 6, 1, 0xc4, 0x80], &[0x41, 1]], Role::Recovery),
            (&[&[6, 6, 1, 0x64, 0x80], &[0x41, 1]], Role::Inside),
            (&[&[6, 6, 1, 0x84, 0x80], &[0x41, 1]], Role::Inside),
            // Behind another message.
            (&[&[6, 5, 2, 9, 9, 6, 1, 0xc4, 0x80], &[0x41, 1]], Role::Recovery),
            (&[], Role::Inside),
        ] {
            assert_eq!(H264.role(&packet(units), true), role, "{units:?}");
        }
        let hevc = Coding::Hevc(Framing::StartCodes);
        assert_eq!(hevc.role(&packet(&[&[32 << 1, 1], &[21 << 1, 1]]), false), Role::Entry);
        assert_eq!(hevc.role(&packet(&[&[1 << 1, 1]]), true), Role::Inside);
        assert_eq!(hevc.role(&packet(&[&[34 << 1, 1], &[1 << 1, 1]]), true), Role::Parameters);
    }

    #[test]
    fn lengths_and_start_codes_frame_the_same_units() {
        assert_eq!(Framing::of(&[1, 100, 0, 30, 0xff], 4), Framing::Lengths(4));
        assert_eq!(Framing::of(&[0, 0, 0, 1, 0x67], 4), Framing::StartCodes);
        let units = |framing: Framing, packet: &[u8]| framing.units(packet).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(units(Framing::Lengths(2), &[0, 1, 7, 0, 2, 8, 9]), [vec![7], vec![8, 9]]);
        assert_eq!(units(Framing::StartCodes, &[0, 0, 1, 7, 0, 0, 1, 8, 9]), [vec![7], vec![8, 9]]);
        // Cut off, or nonsense: nothing, and no panic.
        assert_eq!(units(Framing::Lengths(4), &[0, 0, 1, 7, 0, 0]), Vec::<Vec<u8>>::new());
        assert_eq!(units(Framing::StartCodes, &[1, 2, 3]), Vec::<Vec<u8>>::new());
        assert_eq!(Coding::H264(Framing::Lengths(4)).role(&[255; 9], true), Role::Inside);
    }

    #[test]
    fn start_codes_are_found_wherever_they_are() {
        for n in 0..9 {
            let bytes = [vec![7; n], vec![0, 0, 1, 9]].concat();
            assert_eq!(start_code(&bytes), Some(n));
            assert_eq!(start_code(&[vec![0; n], vec![1, 1, 0]].concat()), n.checked_sub(2));
        }
        assert_eq!((start_code(&[0, 1, 0, 0]), start_code(&[0, 0])), (None, None));
    }

    #[test]
    fn the_head_of_a_packet_is_what_comes_before_its_first_slice_and_some_of_that() {
        let hevc = Coding::Hevc(Framing::Lengths(2));
        let packet = [0, 2, 34 << 1, 1, 0, 4, 21 << 1, 1, 5, 6, 0, 2, 1 << 1, 1];
        assert_eq!(hevc.head(&packet, 3), [0, 2, 34 << 1, 1, 0, 3, 21 << 1, 1, 5]);
        assert_eq!((hevc.start(&packet), hevc.start(&packet[10..])), (Start::RandomAccess, Start::None));
        assert_eq!(H264.head(&[0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 2, 3], 2), [0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 2]);
        assert_eq!(H264.start(&[0, 0, 1, 0x65]), Start::Sequence);
        assert_eq!(Coding::MarkedKeys.head(&packet, 3), [0; 0]);
        assert!(hevc.is_sliced(&packet) && !hevc.is_sliced(&packet[..10]));
    }

    #[test]
    fn other_codings_go_by_their_marks() {
        assert_eq!(Coding::MarkedKeys.role(&[], true), Role::Entry);
        assert_eq!(Coding::MarkedKeys.role(&[], false), Role::Inside);
        assert_eq!(Coding::IntraOnly.role(&[], false), Role::Entry);
    }
}
