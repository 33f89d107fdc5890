//! Packet index of a stream: the packets that must be decoded for given frames. Arithmetic, no decoding.
//!
//! `demux` makes the index of a scan; `decode::seek` decodes the runs. Only healthy streams are indexed: one frame a
//! packet, presentation times in output order.

use super::entry::PacketRole;

/// Facts about a packet before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PacketFacts {
    /// Presentation time in the stream's ticks.
    pub(super) pts: i64,
    /// Decoding time in ticks, where the packet has one.
    pub(super) dts: Option<i64>,
    /// Rank of the picture in output order.
    pub(super) rank: OutputRank,
    /// Size in bytes.
    pub(super) bytes: u32,
    /// Role for a decoding that begins with the packet.
    pub(super) role: PacketRole,
    /// Whether the container flags the packet as key.
    pub(super) is_flagged_key: bool,
    /// Whether an edit list discards the frame.
    pub(super) is_discarded: bool,
}

/// Rank of a picture in output order: its sequence, and its picture order count within the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OutputRank {
    /// Number of the coded video sequence.
    pub(super) sequence: u32,
    /// Picture order count.
    pub(super) number: i32,
}

/// Index of the packets of a healthy stream, each of which gives one frame.
#[derive(Debug)]
pub(super) struct PacketIndex {
    /// Packets in decoding order.
    packets: Vec<PacketFacts>,
    /// Indices into `packets`, in presentation order.
    by_pts: Vec<u32>,
    /// Indices of the packets whose frames are shown, in presentation order.
    shown: Vec<u32>,
    /// Whether exactly the entry points are flagged as key.
    flags_are_entries: bool,
}

/// A run of consecutive packets to decode, and the frames kept of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PacketRun {
    /// First packet, an entry point.
    pub(super) first: usize,
    /// Last packet that a kept frame needs.
    pub(super) last: usize,
    /// Frames in presentation order; a frame may occur twice.
    pub(super) frames: Vec<usize>,
}

/// Number of packets that are decoded rather than skipped by a seek: a seek discards the state of the decoder.
const GAP: usize = 8;
/// Number of pictures decoded before a picture that is shown earlier, at most (ITU-T H.264, annex A.3.1, MaxDpbFrames).
const REORDERED: usize = 16;
/// Cost of a seek, in packets.
const SEEK_COST: usize = 4;

impl PacketIndex {
    /// Makes the index of a stream whose decoder has a reordering delay of `delay` frames. `None` where the decoder may
    /// output frames in another order than that of their times, or a packet other than an entry has parameter sets.
    pub(super) fn new(mut packets: Vec<PacketFacts>, delay: usize) -> Option<Self> {
        let pts = |index: u32| packets[index as usize].pts;
        let mut by_pts: Vec<u32> = (0..u32::try_from(packets.len()).ok()?).collect();
        by_pts.sort_unstable_by_key(|&index| pts(index));
        let rank = |index: u32| packets[index as usize].rank;
        let is_ordered = by_pts.windows(2).all(|pair| pts(pair[0]) < pts(pair[1]) && rank(pair[0]) < rank(pair[1]));
        let is_whole = packets.first().is_none_or(|packet| packet.role == PacketRole::Entry);
        if !is_ordered
            || !is_whole
            || reordering(&packets) > delay
            || packets.iter().any(|packet| packet.role == PacketRole::Parameters)
        {
            return None;
        }
        let flags_are_entries = packets.iter().all(|packet| packet.is_flagged_key == packet.role.is_entry());
        // An entry after a packet that is shown later does not count.
        let mut latest = i64::MIN;
        for packet in &mut packets {
            if packet.role.is_entry() && latest > packet.pts {
                packet.role = PacketRole::Inside;
            }
            latest = latest.max(packet.pts);
        }
        let shown = by_pts.iter().copied().filter(|&index| !packets[index as usize].is_discarded).collect();
        Some(Self { packets, by_pts, shown, flags_are_entries })
    }

    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Returns a packet by its index in decoding order.
    pub(super) fn get(&self, index: usize) -> &PacketFacts {
        &self.packets[index]
    }

    /// Returns the index of the packet with a presentation time.
    pub(super) fn index_of(&self, pts: i64) -> Option<usize> {
        let found = self.by_pts.binary_search_by_key(&pts, |&index| self.packets[index as usize].pts).ok()?;
        Some(self.by_pts[found] as usize)
    }

    pub(super) fn flags_are_entries(&self) -> bool {
        self.flags_are_entries
    }

    /// Number of shown frames.
    pub(super) fn n_shown(&self) -> usize {
        self.shown.len()
    }

    /// Returns the packet of a frame.
    pub(super) fn of_frame(&self, frame: usize) -> &PacketFacts {
        &self.packets[self.shown[frame] as usize]
    }

    /// Returns the index of the first frame whose time `is_inside`, or the number of frames.
    pub(super) fn first_frame(&self, mut is_inside: impl FnMut(i64) -> bool) -> usize {
        self.shown.iter().position(|&index| is_inside(self.packets[index as usize].pts)).unwrap_or(self.shown.len())
    }

    /// Returns the runs to decode for frames in presentation order.
    pub(super) fn runs(&self, frames: &[usize]) -> Vec<PacketRun> {
        let mut runs: Vec<PacketRun> = Vec::new();
        for &frame in frames {
            let index = self.shown[frame] as usize;
            let first = self.entry(index);
            match runs.last_mut() {
                Some(run) if first <= run.last.saturating_add(GAP) => {
                    run.first = run.first.min(first);
                    run.last = run.last.max(index);
                    run.frames.push(frame);
                }
                _ => runs.push(PacketRun { first, last: index, frames: vec![frame] }),
            }
        }
        runs
    }

    /// Returns the packet where decoding begins for the frame of a packet: the last entry before the packet that is not
    /// shown after it, or the first packet.
    fn entry(&self, index: usize) -> usize {
        let pts = self.packets[index].pts;
        let begins = |&at: &usize| {
            let reaches = match self.packets[at].role {
                PacketRole::Entry => true,
                PacketRole::Recovery => index - at > REORDERED,
                PacketRole::Inside | PacketRole::Parameters => false,
            };
            reaches && self.packets[at].pts <= pts
        };
        (0..=index).rev().find(begins).unwrap_or(0)
    }

    /// Returns the last entry before a packet, or the first packet.
    pub(super) fn entry_before(&self, index: usize) -> usize {
        (0..index).rev().find(|&at| self.packets[at].role.is_entry()).unwrap_or(0)
    }
}

/// Returns the largest number of packets that precede a packet and are shown after it (ITU-T H.264, annex E.2.1,
/// max_num_reorder_frames), up to one more than any decoder reorders.
fn reordering(packets: &[PacketFacts]) -> usize {
    // The latest times so far, in falling order.
    let mut latest: Vec<i64> = Vec::new();
    let mut most = 0;
    for packet in packets {
        let n_after = latest.partition_point(|&pts| pts > packet.pts);
        most = most.max(n_after);
        latest.insert(n_after, packet.pts);
        latest.truncate(REORDERED + 1);
    }
    most
}

/// Returns the cost of runs in packets, seeks included.
pub(super) fn cost(runs: &[PacketRun]) -> usize {
    runs.iter().map(|run| run.last - run.first + 1 + SEEK_COST).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes packets by their presentation times; an `e` marks entries.
    fn packets(text: &str) -> Vec<PacketFacts> {
        let packet = |word: &str| PacketFacts {
            pts: word.trim_end_matches('e').parse().expect("a number"),
            dts: None,
            rank: OutputRank { sequence: 0, number: word.trim_end_matches('e').parse().expect("a number") },
            bytes: 1,
            role: if word.ends_with('e') { PacketRole::Entry } else { PacketRole::Inside },
            is_flagged_key: word.ends_with('e'),
            is_discarded: false,
        };
        text.split_whitespace().map(packet).collect()
    }

    fn runs(text: &str, frames: &[usize]) -> Vec<(usize, usize)> {
        let packets = PacketIndex::new(packets(text), 2).expect("distinct times");
        packets.runs(frames).iter().map(|run| (run.first, run.last)).collect()
    }

    #[test]
    fn a_frame_needs_its_group_as_far_as_its_packet() {
        let closed: String = (0..40).map(|i| if i % 20 == 0 { format!("{i}e ") } else { format!("{i} ") }).collect();
        assert_eq!(runs(&closed, &[25]), [(20, 25)]);
        assert_eq!(runs(&closed, &[5, 5, 25]), [(0, 5), (20, 25)]);
        // Too near for a seek.
        assert_eq!(runs(&closed, &[15, 25]), [(0, 25)]);
        assert_eq!(cost(&PacketIndex::new(packets(&closed), 2).expect("fine").runs(&[5, 25])), 6 + 6 + 8);
    }

    #[test]
    fn a_frame_shown_before_its_entry_needs_the_group_before() {
        // I0 P3 B1 B2 | I6 B4 B5 P9 B7 B8: the two leading pictures depend on the group before.
        let open = "0e 3 1 2 6e 4 5 9 7 8";
        assert_eq!(runs(open, &[4]), [(0, 5)]);
        assert_eq!(runs(open, &[6]), [(4, 4)]);
        assert_eq!(runs(open, &[7]), [(4, 8)]);
    }

    #[test]
    fn a_recovery_point_shows_what_comes_some_packets_later() {
        let mut groups = packets(&(0..60).map(|i| format!("{i} ")).collect::<String>());
        groups[0].role = PacketRole::Entry;
        groups[20].role = PacketRole::Recovery;
        let groups = PacketIndex::new(groups, 2).expect("distinct times");
        let first = |frame: usize| groups.runs(&[frame])[0].first;
        assert_eq!((first(20), first(36), first(37), first(59)), (0, 0, 20, 20));
        assert_eq!((groups.entry_before(59), groups.entry_before(20), groups.entry_before(0)), (20, 0, 0));
    }

    #[test]
    fn an_entry_after_a_packet_that_is_shown_later_does_not_count() {
        assert_eq!(runs("0e 5 3e 6", &[3]), [(0, 3)]);
    }

    #[test]
    fn discarded_frames_are_decoded_and_not_counted() {
        let mut cut = packets("0e 1 2 3");
        cut[0].is_discarded = true;
        cut[1].is_discarded = true;
        let cut = PacketIndex::new(cut, 2).expect("distinct times");
        assert_eq!((cut.n_shown(), cut.len(), cut.of_frame(0).pts), (2, 4, 2));
        assert_eq!(cut.runs(&[0]), [PacketRun { first: 0, last: 2, frames: vec![0] }]);
    }

    #[test]
    fn times_that_are_not_the_output_order_are_not_indexed() {
        // Decoding times in index of presentation times: I0 P3 B1 B2.
        let mut stored = packets("0e 1 2 3");
        stored.iter_mut().zip([0, 3, 1, 2]).for_each(|(packet, number)| packet.rank.number = number);
        assert!(PacketIndex::new(stored, 2).is_none());
        // Two packets precede a packet that is shown before both.
        assert_eq!(reordering(&packets("0e 4 2 1 3")), 2);
        assert!(PacketIndex::new(packets("0e 4 2 1 3"), 1).is_none());
        // The first packet is no entry.
        assert!(PacketIndex::new(packets("0 1e 2"), 2).is_none());
    }

    #[test]
    fn packets_with_equal_times_or_late_parameters_are_not_indexed() {
        assert!(PacketIndex::new(packets("0e 1 1"), 2).is_none());
        let mut late = packets("0e 1 2");
        late[1].role = PacketRole::Parameters;
        assert!(PacketIndex::new(late, 2).is_none());
        let mut marked = packets("0e 1 2");
        marked[2].is_flagged_key = true;
        assert!(!PacketIndex::new(marked, 2).expect("fine").flags_are_entries());
    }
}
