//! Plans of steps worked out by hand.

use super::super::step_capacity::StepCapacity;
use super::*;

const GEOMETRY: KvGeometry = KvGeometry { n_layers: 1, n_heads: 2, n_kv_heads: 1, d_head: 2 };

fn rows(pages: &[u32], start: usize, n: usize) -> StepRows {
    StepRows { pages: pages.iter().map(|&page| PageId(page)).collect(), start, n }
}

fn plan_for(geometry: &KvGeometry, sequences: Vec<StepRows>) -> StepPlan {
    let n_angles = sequences.iter().map(|rows| rows.n).sum::<usize>() * geometry.d_head / 2;
    let layout = StepLayout { sequences, cos: vec![1.0; n_angles], sin: vec![0.0; n_angles] };
    let format = PageFormat { geometry: *geometry, element_bytes: 2, max_decode_positions: 8 };
    StepPlan::new(&layout, &format, |page| Ok(0x1_0000_0000 + u64::from(page.0))).expect("all pages are allocated")
}

fn section(plan: &StepPlan, of: &Range<usize>) -> Vec<u32> {
    plan.words[of.clone()].to_vec()
}

/// Table, first key, end, rows and slots of each task.
fn tasks(plan: &StepPlan) -> Vec<([u32; 3], Vec<u32>, Vec<u32>)> {
    let words = section(plan, &plan.sections.tasks);
    let task = |task: &[u32]| {
        let n = task[3] as usize;
        ([task[0], task[1], task[2]], task[4..4 + n].to_vec(), task[4 + TASK_ROWS..][..n].to_vec())
    };
    words.chunks_exact(TASK_WORDS).map(task).collect()
}

#[test]
fn tables_and_rows_say_where_positions_lie() {
    let plan = plan_for(&GEOMETRY, vec![rows(&[7, 9], 33, 2), rows(&[3, 4, 5], 0, 40)]);
    // Addresses in two words, low one first; pages that the step does not reach are left out.
    assert_eq!(section(&plan, &plan.sections.tables), [7, 1, 9, 1, 3, 1, 4, 1]);
    let found = section(&plan, &plan.sections.rows);
    assert_eq!(found[..8], [0, 33, 0, 2, 0, 34, 0, 2]);
    // The third row of the other sequence, all of whose rows are one chunk.
    assert_eq!(found[4 * 4..5 * 4], [2, 2, 2, 40]);
    assert_eq!(plan.sections.cos.len(), 42);
    let chunk = PrefillChunk { row: 2, start: 0, n: 40 };
    assert_eq!(plan.prefill, [PrefillWork { table: 2, n_keys: 40, chunks: vec![chunk] }]);
    // Both rows of the first sequence see its first page whole.
    let shared = ([0, 0, 32], vec![0, 1], vec![0, 2]);
    assert_eq!(tasks(&plan), [shared, ([0, 32, 34], vec![0], vec![1]), ([0, 32, 35], vec![1], vec![3])]);
}

#[test]
fn shared_pages_are_read_once_and_joined_with_what_each_row_sees_alone() {
    let plan = plan_for(&GEOMETRY, vec![rows(&[0, 1, 2], 70, 1), rows(&[0, 1, 3], 90, 1), rows(&[0, 1], 63, 1)]);
    // The third sequence ends with the shared pages: it has one result. Sequences come in the order of their pages.
    let expected = [
        ([6, 0, 64], vec![2, 0, 1], vec![DIRECT, 0, 2]),
        ([0, 64, 71], vec![0], vec![1]),
        ([3, 64, 91], vec![1], vec![3]),
    ];
    assert_eq!(tasks(&plan), expected);
    assert_eq!(section(&plan, &plan.sections.joins), [0, 0, 2, 1, 2, 2]);
    let work = DecodeWork { n_tasks: 3, n_joins: 2, n_slots: 4, max_rows: 3 };
    assert_eq!(plan.decode, work);
}

#[test]
fn a_long_context_is_cut_evenly_where_there_are_fewer_blocks_than_a_gpu_runs() {
    let pages: Vec<u32> = (0..10).collect();
    let plan = plan_for(&GEOMETRY, vec![rows(&pages, 300, 1)]);
    // 10 pages in parts of at most 4: 4, 4 and 2.
    let ranges: Vec<[u32; 3]> = tasks(&plan).into_iter().map(|(range, ..)| range).collect();
    assert_eq!(ranges, [[0, 0, 128], [0, 128, 256], [0, 256, 301]]);
    assert_eq!(section(&plan, &plan.sections.joins), [0, 0, 3]);
    // 200 sequences on 64 heads fill a GPU uncut.
    let many = (0..200).map(|i| rows(&pages.iter().map(|page| page + 10 * i).collect::<Vec<u32>>(), 300, 1)).collect();
    let plan = plan_for(&KvGeometry { n_heads: 64, n_kv_heads: 64, ..GEOMETRY }, many);
    assert_eq!(plan.decode.n_slots, 0);
}

#[test]
fn scores_of_long_pieces_stay_bounded() {
    let geometry = KvGeometry { n_layers: 1, n_heads: 64, n_kv_heads: 8, d_head: 2 };
    let pages: Vec<u32> = (0..1024).collect();
    let plan = plan_for(&geometry, vec![rows(&pages, 31_744, 1024)]);
    // 8 queries a key-value head over 32,768 keys of 2 bytes: 512 KiB a row, 64 rows in 32 MiB.
    let chunks = &plan.prefill[0].chunks;
    assert_eq!((chunks.len(), chunks[1]), (16, PrefillChunk { row: 64, start: 31_808, n: 64 }));
    assert_eq!(section(&plan, &plan.sections.rows)[65 * 4..66 * 4], [0, 31_809, 64, 64]);
    assert_eq!(heads_at_once(&geometry, 64, 32_768, 2), 1);
    assert_eq!(heads_at_once(&geometry, 64, 4096, 2), 8);
    assert_eq!(heads_at_once(&geometry, 128, 4090, 2), 4);
}

#[test]
fn a_recorded_step_has_its_sections_at_fixed_places() {
    let capacity = StepCapacity::new(&GEOMETRY, 2, 8);
    // 512 parts and two ranges a row; of each the rows' slots.
    assert_eq!((capacity.n_tasks, capacity.n_slots), (516, 1032));
    let sections = capacity.sections();
    assert_eq!([&sections.rows, &sections.cos, &sections.sin], [&(2..10), &(10..12), &(12..14)]);
    assert_eq!((sections.tables.start % 2, sections.tables.len()), (0, 16));
    let step = |start| plan_for(&GEOMETRY, vec![rows(&[7, 9, 3, 2, 1], start, 1), rows(&[4], 0, 1)]);
    let words = capacity.words(&[11, 12], &step(40)).expect("the shapes match");
    assert_eq!((&words[..6], &words[sections.tables.start..]), (&[11, 12, 0, 40, 0, 1][..], &[7, 1, 9, 1, 4, 1][..]));
    // Sequences come in the order of their pages.
    assert_eq!(words[sections.tasks.clone()][..4], [2, 0, 1, 1]);
    assert_eq!(words[sections.tasks.start + TASK_WORDS..][..4], [0, 0, 41, 1]);
    // Two tasks; a third would have no rows.
    assert_eq!(words[sections.tasks.start + 2 * TASK_WORDS..][..TASK_WORDS], [0; TASK_WORDS]);
    assert!(StepCapacity { n_pages: 2, ..capacity }.words(&[11, 12], &step(40)).is_none(), "three pages");
    assert!(StepCapacity { n_tasks: 1, ..capacity }.words(&[11, 12], &step(40)).is_none(), "two tasks");
    assert!(StepCapacity { n_slots: 0, ..capacity }.words(&[11, 12], &step(150)).is_none(), "two slots");
    assert!(
        capacity.words(&[11], &step(40)).is_none()
            && capacity.words(&[1], &plan_for(&GEOMETRY, vec![rows(&[4], 0, 1)])).is_none()
    );
}

#[test]
fn no_step_has_more_tasks_than_a_recorded_one_has_room_for() {
    for n_kv_heads in [1, 8, 64] {
        let geometry = KvGeometry { n_heads: 64, n_kv_heads, ..GEOMETRY };
        for n in [1, 2, 7, 32] {
            for (n_pages, n_shared) in [(1, 0), (3, 2), (40, 33), (500, 0), (500, 499)] {
                let pages =
                    |i: u32| (0..n_pages).map(|p| if p < n_shared { p } else { 1000 * i + p }).collect::<Vec<u32>>();
                let sequences =
                    (0..n as u32).map(|i| rows(&pages(i + 1), n_pages as usize * PAGE_LEN - 1 - i as usize % 30, 1));
                let plan = plan_for(&geometry, sequences.collect());
                let capacity = StepCapacity::new(&geometry, n, plan.sections.tables.len() / 2);
                assert!(
                    capacity.words(&vec![0; n], &plan).is_some(),
                    "{n} of {n_pages}, {n_shared} shared: {:?}",
                    plan.decode
                );
            }
        }
    }
}
