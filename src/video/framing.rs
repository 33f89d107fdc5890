//! Framing of H.264 and HEVC: NAL units of a packet, behind lengths (ISO 14496-15) or start codes (annex B), and the
//! code of payload types and sizes of SEI messages. Called by `entry` and `display`.

/// Framing of the NAL units in a packet of H.264 or HEVC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Each unit after its length, of this number of bytes (ISO 14496-15).
    Lengths(usize),
    /// Each unit after a start code (annex B).
    StartCodes,
}

impl Framing {
    /// Returns the framing by the extradata of a stream: `avcC` or `hvcC`, whose byte `at` has the size of lengths in
    /// its last bits, or else start codes.
    pub(super) fn of(extradata: &[u8], at: usize) -> Self {
        match extradata {
            [1, ..] if extradata.len() > at => Self::Lengths(usize::from(extradata[at] & 3) + 1),
            _ => Self::StartCodes,
        }
    }

    /// Appends a unit, cut to the longest that its length can express.
    pub(super) fn write(self, unit: &[u8], to: &mut Vec<u8>) {
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

    /// Returns the units of a packet, without lengths and start codes.
    pub(super) fn units(self, packet: &[u8]) -> Units<'_> {
        Units { rest: packet, framing: self }
    }
}

/// Iterator over the NAL units of a packet.
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

/// Returns the offset of the next start code, `00 00 01`.
fn start_code(bytes: &[u8]) -> Option<usize> {
    let mut last = 2;
    while let Some(&byte) = bytes.get(last) {
        match byte {
            1 if bytes[last - 2..last] == [0, 0] => return Some(last - 2),
            0 => last += 1,
            // This byte does not occur in a start code before its end.
            _ => last += 3,
        }
    }
    None
}

/// Reads a payload type or size: bytes of 255, and a last byte below 255.
pub(super) fn sei_number(bytes: &mut &[u8]) -> Option<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
