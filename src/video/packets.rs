//! The packets of a stream, and which of them have to be decoded for some of its frames: arithmetic, no decoding.

use super::entry::Role;

/// What is known of a packet before it is decoded, in decoding order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    /// Presentation time in the stream's ticks.
    pub(super) pts: i64,
    /// Decoding time, where there is one.
    pub(super) dts: Option<i64>,
    /// Its picture's place in output order.
    pub(super) rank: Rank,
    pub(super) bytes: u32,
    pub(super) role: Role,
    /// Whether the container marks it as key.
    pub(super) is_marked: bool,
    /// Whether an edit list cuts its frame out.
    pub(super) is_discarded: bool,
}

/// The place of a picture in output order: its sequence, and its number within that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) sequence: u32,
    pub(super) number: i32,
}

/// The packets of a healthy stream: each gives one frame.
#[derive(Debug)]
pub(super) struct Packets {
    packets: Vec<Packet>,
    /// Places in decoding order, in presentation order.
    by_pts: Vec<u32>,
    /// Those of them that are shown.
    shown: Vec<u32>,
    /// Whether what the container marks as key is where decoding may begin, and nothing else.
    marks_are_entries: bool,
}

/// Packets that are decoded one after the other, and the frames that are kept of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first packet, where decoding may begin.
    pub(super) first: usize,
    /// The last one that a kept frame needs.
    pub(super) last: usize,
    /// Frames in presentation order; one may stand there twice.
    pub(super) frames: Vec<usize>,
}

/// Packets that are read on over rather than jumped over: a jump throws away what the decoder has begun.
const GAP: usize = 8;
/// Pictures that may be decoded before one that is shown first, at most (ITU-T H.264, annex A.3.1, MaxDpbFrames).
const REORDERED: usize = 16;
/// What a jump costs, in packets.
const JUMP: usize = 4;

impl Packets {
    /// The packets of a stream whose decoder holds back `delay` frames. Nothing where it is not certain that the
    /// decoder gives the frames in the order of their times, or a packet brings parameters where decoding would not
    /// begin.
    pub(super) fn new(mut packets: Vec<Packet>, delay: usize) -> Option<Self> {
        let pts = |place: u32| packets[place as usize].pts;
        let mut by_pts: Vec<u32> = (0..u32::try_from(packets.len()).ok()?).collect();
        by_pts.sort_unstable_by_key(|&place| pts(place));
        let rank = |place: u32| packets[place as usize].rank;
        let is_ordered = by_pts.windows(2).all(|pair| pts(pair[0]) < pts(pair[1]) && rank(pair[0]) < rank(pair[1]));
        let is_whole = packets.first().is_none_or(|packet| packet.role == Role::Entry);
        if !is_ordered
            || !is_whole
            || reordering(&packets) > delay
            || packets.iter().any(|packet| packet.role == Role::Parameters)
        {
            return None;
        }
        let marks_are_entries = packets.iter().all(|packet| packet.is_marked == packet.role.is_entry());
        // What is shown after an entry must not come before it.
        let mut latest = i64::MIN;
        for packet in &mut packets {
            if packet.role.is_entry() && latest > packet.pts {
                packet.role = Role::Inside;
            }
            latest = latest.max(packet.pts);
        }
        let shown = by_pts.iter().copied().filter(|&place| !packets[place as usize].is_discarded).collect();
        Some(Self { packets, by_pts, shown, marks_are_entries })
    }

    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// A packet by its place in decoding order.
    pub(super) fn get(&self, place: usize) -> &Packet {
        &self.packets[place]
    }

    /// The place of the packet with this presentation time.
    pub(super) fn place_of(&self, pts: i64) -> Option<usize> {
        let found = self.by_pts.binary_search_by_key(&pts, |&place| self.packets[place as usize].pts).ok()?;
        Some(self.by_pts[found] as usize)
    }

    pub(super) fn marks_are_entries(&self) -> bool {
        self.marks_are_entries
    }

    /// Frames that are shown.
    pub(super) fn n_shown(&self) -> usize {
        self.shown.len()
    }

    /// The packet of a frame.
    pub(super) fn of_frame(&self, frame: usize) -> &Packet {
        &self.packets[self.shown[frame] as usize]
    }

    /// The first frame that `is_inside`, of frames of which the others of that kind follow it.
    pub(super) fn first_frame(&self, mut is_inside: impl FnMut(i64) -> bool) -> usize {
        self.shown.iter().position(|&place| is_inside(self.packets[place as usize].pts)).unwrap_or(self.shown.len())
    }

    /// What has to be decoded for some frames, in presentation order.
    pub(super) fn runs(&self, frames: &[usize]) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for &frame in frames {
            let place = self.shown[frame] as usize;
            let first = self.entry(place);
            match runs.last_mut() {
                Some(run) if first <= run.last.saturating_add(GAP) => {
                    run.first = run.first.min(first);
                    run.last = run.last.max(place);
                    run.frames.push(frame);
                }
                _ => runs.push(Run { first, last: place, frames: vec![frame] }),
            }
        }
        runs
    }

    /// Where decoding begins for the frame of a packet: the last entry before it that is not shown after it, or the
    /// first packet.
    fn entry(&self, place: usize) -> usize {
        let pts = self.packets[place].pts;
        let begins = |&at: &usize| {
            let reaches = match self.packets[at].role {
                Role::Entry => true,
                Role::Recovery => place - at > REORDERED,
                Role::Inside | Role::Parameters => false,
            };
            reaches && self.packets[at].pts <= pts
        };
        (0..=place).rev().find(begins).unwrap_or(0)
    }

    /// The last packet before this one where decoding may begin, or the first.
    pub(super) fn entry_before(&self, place: usize) -> usize {
        (0..place).rev().find(|&at| self.packets[at].role.is_entry()).unwrap_or(0)
    }
}

/// The most packets that come before one and are shown after it (ITU-T H.264, annex E.2.1, max_num_reorder_frames), up
/// to one more than any decoder holds.
fn reordering(packets: &[Packet]) -> usize {
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

/// Packets that are decoded in some runs, jumps counted as packets too.
pub(super) fn cost(runs: &[Run]) -> usize {
    runs.iter().map(|run| run.last - run.first + 1 + JUMP).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets by their presentation times; an `e` marks where decoding may begin.
    fn packets(text: &str) -> Vec<Packet> {
        let packet = |word: &str| Packet {
            pts: word.trim_end_matches('e').parse().expect("a number"),
            dts: None,
            rank: Rank { sequence: 0, number: word.trim_end_matches('e').parse().expect("a number") },
            bytes: 1,
            role: if word.ends_with('e') { Role::Entry } else { Role::Inside },
            is_marked: word.ends_with('e'),
            is_discarded: false,
        };
        text.split_whitespace().map(packet).collect()
    }

    fn runs(text: &str, frames: &[usize]) -> Vec<(usize, usize)> {
        let packets = Packets::new(packets(text), 2).expect("they can be told apart");
        packets.runs(frames).iter().map(|run| (run.first, run.last)).collect()
    }

    #[test]
    fn a_frame_needs_its_group_as_far_as_its_packet() {
        let closed: String = (0..40).map(|i| if i % 20 == 0 { format!("{i}e ") } else { format!("{i} ") }).collect();
        assert_eq!(runs(&closed, &[25]), [(20, 25)]);
        assert_eq!(runs(&closed, &[5, 5, 25]), [(0, 5), (20, 25)]);
        // Too near to jump.
        assert_eq!(runs(&closed, &[15, 25]), [(0, 25)]);
        assert_eq!(cost(&Packets::new(packets(&closed), 2).expect("fine").runs(&[5, 25])), 6 + 6 + 8);
    }

    #[test]
    fn a_frame_shown_before_its_entry_needs_the_group_before() {
        // I0 P3 B1 B2 | I6 B4 B5 P9 B7 B8: the two that lead need what came before.
        let open = "0e 3 1 2 6e 4 5 9 7 8";
        assert_eq!(runs(open, &[4]), [(0, 5)]);
        assert_eq!(runs(open, &[6]), [(4, 4)]);
        assert_eq!(runs(open, &[7]), [(4, 8)]);
    }

    #[test]
    fn a_recovery_point_shows_what_comes_some_packets_later() {
        let mut groups = packets(&(0..60).map(|i| format!("{i} ")).collect::<String>());
        groups[0].role = Role::Entry;
        groups[20].role = Role::Recovery;
        let groups = Packets::new(groups, 2).expect("they can be told apart");
        let first = |frame: usize| groups.runs(&[frame])[0].first;
        assert_eq!((first(20), first(36), first(37), first(59)), (0, 0, 20, 20));
        assert_eq!((groups.entry_before(59), groups.entry_before(20), groups.entry_before(0)), (20, 0, 0));
    }

    #[test]
    fn an_entry_that_is_shown_before_what_precedes_it_is_none() {
        assert_eq!(runs("0e 5 3e 6", &[3]), [(0, 3)]);
    }

    #[test]
    fn frames_that_are_cut_out_are_decoded_and_not_counted() {
        let mut cut = packets("0e 1 2 3");
        cut[0].is_discarded = true;
        cut[1].is_discarded = true;
        let cut = Packets::new(cut, 2).expect("they can be told apart");
        assert_eq!((cut.n_shown(), cut.len(), cut.of_frame(0).pts), (2, 4, 2));
        assert_eq!(cut.runs(&[0]), [Run { first: 0, last: 2, frames: vec![0] }]);
    }

    #[test]
    fn times_that_are_not_the_output_order_are_not_indexed() {
        // Decoding times in place of presentation times: I0 P3 B1 B2.
        let mut stored = packets("0e 1 2 3");
        stored.iter_mut().zip([0, 3, 1, 2]).for_each(|(packet, number)| packet.rank.number = number);
        assert!(Packets::new(stored, 2).is_none());
        // Two packets come before one that is shown before both.
        assert_eq!(reordering(&packets("0e 4 2 1 3")), 2);
        assert!(Packets::new(packets("0e 4 2 1 3"), 1).is_none());
        // It begins where decoding may not.
        assert!(Packets::new(packets("0 1e 2"), 2).is_none());
    }

    #[test]
    fn what_cannot_be_told_apart_is_not_indexed() {
        assert!(Packets::new(packets("0e 1 1"), 2).is_none());
        let mut late = packets("0e 1 2");
        late[1].role = Role::Parameters;
        assert!(Packets::new(late, 2).is_none());
        let mut marked = packets("0e 1 2");
        marked[2].is_marked = true;
        assert!(!Packets::new(marked, 2).expect("fine").marks_are_entries());
    }
}
