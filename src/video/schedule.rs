//! Schedule of a stream: the frames that its packets promise, in output order with their times. Arithmetic, no
//! decoding.
//!
//! Frames are sorted by presentation time if every packet has one that agrees with the picture order counts, separately
//! for each part of a stream whose times restart. Elsewhere frames keep the order of packets, with decoding times.
//! Called by `demux`.

use super::clock::{ClockStamp, FrameClock};
use super::packets::OutputRank;

/// Time stamps of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct PacketTimes {
    /// Presentation time in ticks.
    pub(super) pts: Option<i64>,
    /// Decoding time in ticks.
    pub(super) dts: Option<i64>,
    /// Duration of the frame in ticks, 0 where unknown.
    pub(super) duration: i64,
    /// Rank of the picture in output order, where its header has one.
    pub(super) rank: Option<OutputRank>,
    /// Whether the container flags the packet as key.
    pub(super) is_key: bool,
}

/// Packets of a stream whose frames are shown, in decoding order.
#[derive(Debug, Default)]
pub(super) struct FrameSchedule {
    packets: Vec<PacketTimes>,
}

/// An expected frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ExpectedFrame {
    /// Presentation time in ticks.
    pub(super) ticks: f64,
    /// Duration by the packet in ticks, 0 where unknown.
    pub(super) duration: i64,
    /// Whether the container flags the packet as key.
    pub(super) is_key: bool,
}

impl FrameSchedule {
    pub(super) fn push(&mut self, packet: PacketTimes) {
        self.packets.push(packet);
    }

    /// Returns the expected frames of a decoder with a reordering delay of `delay` frames.
    pub(super) fn frames(mut self, mut clock: FrameClock, delay: usize) -> Vec<ExpectedFrame> {
        let expected = match self.sort_by_presentation() {
            true => self.packets.iter().map(|packet| (packet.pts, true, packet)).collect(),
            false => self.by_decoding(delay),
        };
        let frame = |(ticks, is_backed, packet): (Option<i64>, bool, &PacketTimes)| ExpectedFrame {
            ticks: clock.next(ClockStamp { ticks, is_backed, duration: packet.duration }),
            duration: packet.duration,
            is_key: packet.is_key,
        };
        expected.into_iter().map(frame).collect()
    }

    /// Sorts the packets by presentation time within each part of the stream; returns false, and leaves the order,
    /// where times are missing or contradict the picture order counts.
    fn sort_by_presentation(&mut self) -> bool {
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

    /// Returns the indices where parts end: where decoding times fall, and the end.
    fn ends(&self) -> Vec<usize> {
        let mut last = None;
        let mut ends = Vec::new();
        for (index, packet) in self.packets.iter().enumerate() {
            if packet.dts.zip(last).is_some_and(|(dts, last)| dts < last) {
                ends.push(index);
            }
            last = packet.dts.or(last);
        }
        ends.push(self.packets.len());
        ends
    }

    /// Returns the packets in decoding order, each with the decoding time of the packet at which its frame is output.
    fn by_decoding(&self, delay: usize) -> Vec<(Option<i64>, bool, &PacketTimes)> {
        let stamp = |index: usize| self.packets.get(index + delay).and_then(|packet| packet.dts.or(packet.pts));
        let frame = |(index, packet)| (stamp(index), true, packet);
        self.packets.iter().enumerate().map(frame).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the times of frames, by presentation time, decoding time and picture order count of their packets.
    fn frames(packets: &[(Option<i64>, Option<i64>, Option<i32>)], delay: usize) -> Vec<f64> {
        let mut schedule = FrameSchedule::default();
        for &(pts, dts, number) in packets {
            let rank = number.map(|number| OutputRank { sequence: 0, number });
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
