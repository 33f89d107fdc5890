//! The frames that packets promise, with their times, in the order in which a decoder will give them. Arithmetic, no
//! decoding.
//!
//! Where every packet has a presentation time that agrees with the pictures' own order, that order is taken, apart for
//! each part of a stream whose times begin anew. Elsewhere frames are expected as they come, with decoding times.

use super::clock::{FrameClock, Stamp};
use super::packets::Rank;

/// The times of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct PacketTimes {
    /// Presentation time in ticks.
    pub(super) pts: Option<i64>,
    /// Decoding time in ticks.
    pub(super) dts: Option<i64>,
    /// Ticks for which its frame is shown, 0 where that is unknown.
    pub(super) duration: i64,
    /// The place of its picture in output order, where the picture tells it.
    pub(super) rank: Option<Rank>,
    /// Whether the container marks it as key.
    pub(super) is_key: bool,
}

/// The packets of a stream whose frames are shown, in decoding order.
#[derive(Debug, Default)]
pub(super) struct FrameSchedule {
    packets: Vec<PacketTimes>,
}

/// A frame that is expected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Expected {
    /// Presentation time in ticks.
    pub(super) ticks: f64,
    /// Ticks for which its packet says that it is shown, 0 where that is unknown.
    pub(super) duration: i64,
    /// Whether the container marks its packet as key.
    pub(super) is_key: bool,
}

impl FrameSchedule {
    pub(super) fn push(&mut self, packet: PacketTimes) {
        self.packets.push(packet);
    }

    /// Returns the expected frames of a decoder that holds back `delay` of them.
    pub(super) fn frames(mut self, mut clock: FrameClock, delay: usize) -> Vec<Expected> {
        let expected = match self.by_presentation() {
            true => self.packets.iter().map(|packet| (packet.pts, true, packet)).collect(),
            false => self.by_decoding(delay),
        };
        let frame = |(ticks, is_backed, packet): (Option<i64>, bool, &PacketTimes)| Expected {
            ticks: clock.next(Stamp { ticks, is_backed, duration: packet.duration }),
            duration: packet.duration,
            is_key: packet.is_key,
        };
        expected.into_iter().map(frame).collect()
    }

    /// Sorts the packets by their presentation times within each part of the stream, unless some have none or their
    /// pictures contradict them.
    fn by_presentation(&mut self) -> bool {
        if self.packets.iter().any(|packet| packet.pts.is_none()) {
            return false;
        }
        let mut sorted = self.packets.clone();
        let mut begin = 0;
        for end in self.ends() {
            sorted[begin..end].sort_by_key(|packet| packet.pts);
            begin = end;
        }
        let agree = |pair: &[PacketTimes]| match (pair[0].rank, pair[1].rank) {
            (Some(first), Some(second)) => first < second,
            _ => true,
        };
        let is_trusted = sorted.windows(2).all(agree);
        if is_trusted {
            self.packets = sorted;
        }
        is_trusted
    }

    /// The places where parts end: where decoding times fall, and at the end.
    fn ends(&self) -> Vec<usize> {
        let mut last = None;
        let mut ends = Vec::new();
        for (place, packet) in self.packets.iter().enumerate() {
            if packet.dts.zip(last).is_some_and(|(dts, last)| dts < last) {
                ends.push(place);
            }
            last = packet.dts.or(last);
        }
        ends.push(self.packets.len());
        ends
    }

    /// Decoding order, each frame with the decoding time of the packet at which it leaves the decoder.
    fn by_decoding(&self, delay: usize) -> Vec<(Option<i64>, bool, &PacketTimes)> {
        let stamp = |place: usize| self.packets.get(place + delay).and_then(|packet| packet.dts.or(packet.pts));
        let frame = |(place, packet)| (stamp(place), true, packet);
        self.packets.iter().enumerate().map(frame).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets by presentation and decoding time, and their pictures' places where those are told.
    fn frames(packets: &[(Option<i64>, Option<i64>, Option<i32>)], delay: usize) -> Vec<f64> {
        let mut schedule = FrameSchedule::default();
        for &(pts, dts, number) in packets {
            let rank = number.map(|number| Rank { sequence: 0, number });
            schedule.push(PacketTimes { pts, dts, duration: 1, rank, is_key: false });
        }
        schedule.frames(FrameClock::new(1.0), delay).iter().map(|frame| frame.ticks).collect()
    }

    #[test]
    fn presentation_times_are_sorted_within_each_part() {
        // I0 P2 B1, then the same again.
        let part = [(Some(0), Some(0), None), (Some(2), Some(1), None), (Some(1), Some(2), None)];
        assert_eq!(frames(&[part, part].concat(), 1), [0., 1., 2., 0., 1., 2.]);
    }

    #[test]
    fn where_pictures_contradict_their_times_decoding_times_are_taken() {
        // Stored in the order I0 P2 B1 with times 0 1 2.
        let packets = [(0, 0), (1, 2), (2, 1)].map(|(time, number)| (Some(time), Some(time), Some(number)));
        assert_eq!(frames(&packets, 1), [1., 2., 3.]);
        let agreeing = [(0, 0), (2, 1), (1, 2)].map(|(pts, dts)| (Some(pts), Some(dts), Some(pts as i32)));
        assert_eq!(frames(&agreeing, 1), [0., 1., 2.]);
    }

    #[test]
    fn missing_times_are_derived() {
        let some = [(None, Some(0), None), (None, Some(1), None), (Some(2), Some(2), None)];
        assert_eq!(frames(&some, 1), [1., 2., 3.]);
        assert_eq!(frames(&[(None, None, None); 3], 1), [0., 1., 2.]);
    }
}
