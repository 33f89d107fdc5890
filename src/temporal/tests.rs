//! All strategies alike: their names, their token counts, and their results whatever the batches of frames.

use super::*;
use candle_core::{DType, Device};
use proptest::prelude::*;

fn max_pool(stride: usize) -> Temporal {
    Temporal::MaxPool(MaxPool { stride })
}

/// Frames 1 and 2 of three tokens of width 1.
fn aggregate(strategy: Temporal) -> Vec<f32> {
    let mut fold = strategy.begin(FrameTokens::loose(3));
    for frame in [[1f32, 5.0, 3.0], [3.0, 1.0, 5.0]] {
        let frame = Tensor::new(&frame, &Device::Cpu).and_then(|x| x.reshape((1, 3, 1))).expect("small");
        fold.push(&frame).expect("the shapes fit");
    }
    fold.finish().and_then(|out| out.flatten_all()?.to_vec1()).expect("two frames came")
}

#[test]
fn each_strategy_does_what_its_paper_says() {
    assert_eq!(aggregate(Temporal::TemporalMean), [2.0, 3.0, 4.0]);
    assert_eq!(aggregate(Temporal::SpatialMean), [3.0, 3.0]);
    assert_eq!(aggregate(Temporal::SpatialTemporalMean), [3.0, 3.0, 2.0, 3.0, 4.0]);
    assert_eq!(aggregate(Temporal::Concat), [1.0, 5.0, 3.0, 3.0, 1.0, 5.0]);
}

#[test]
fn odd_last_token_is_dropped() {
    // Of 1 5 3 the pair (1, 5) gives 5, the 3 is dropped; of 3 1 5 the pair (3, 1) gives 3.
    assert_eq!(aggregate(max_pool(2)), [5.0, 3.0]);
}

#[test]
fn token_counts_are_those_of_the_paper() {
    let count = |strategy: Temporal, n_frames, n| strategy.n_tokens(n_frames, FrameTokens::loose(n)).0;
    assert_eq!([576, 729, 911].map(|n| count(Temporal::D2, 8, n)), [2304, 2912, 3640]);
    assert_eq!(Temporal::D2.explain(8, FrameTokens::loose(729)), "8 frames x 364 tokens (729 / 2)");
    assert_eq!(Temporal::D2.n_dropped(FrameTokens::loose(729)), 1);
    assert_eq!(count(Temporal::SlowFast(SlowFast::default()), 50, 576), 3680);
    assert_eq!(count(Temporal::Adaptive3d(Adaptive3d::default()), 50, 576), 16 * 144);
    assert_eq!(count(Temporal::IgVlm(IgVlm::default()), 6, 576), 576);
}

#[test]
fn names_print_as_they_are_read() {
    for strategy in Temporal::all() {
        assert_eq!(strategy.to_string().parse().ok(), Some(strategy));
        assert_eq!(strategy.name().parse().ok(), Some(strategy));
    }
    assert_eq!("max_pool:3".parse().ok(), Some(max_pool(3)));
    let pool = Pool2d { mode: PoolMode::Max, height: 3, ..Pool2d::default() };
    assert_eq!("evs:0.5".parse().ok(), Some(Temporal::Evs(Evs { drop: 0.5 })));
    assert_eq!((max_pool(3).to_string(), Temporal::Concat.to_string()), ("max_pool:3".into(), "concat".into()));
    assert_eq!("pool_2d:mode=max,height=3".parse().ok(), Some(Temporal::Pool2d(pool)));
    for text in ["", "mean", "max_pool:0", "max_pool:x", "max_pool:", "concat:2", "evs:drop=much", "slowfast:fast=4"] {
        assert!(text.parse::<Temporal>().is_err(), "{text}");
    }
    let error = "slowfast:fast=4".parse::<Temporal>().expect_err("no such option");
    assert_eq!(
        error.to_string(),
        "`slowfast:fast=4`: unknown option `fast` of slowfast; hint: slow_frames, slow_stride, fast_grid"
    );
}

#[test]
fn no_frames_are_an_error() {
    for strategy in Temporal::all() {
        assert!(strategy.begin(frame()).finish().is_err(), "{strategy}");
    }
}

/// Returns a grid that no default pool is too large for.
fn frame() -> FrameTokens {
    FrameTokens { has_newline: true, ..FrameTokens::on_grid(Grid { height: 13, width: 14 }) }
}

#[test]
fn strategies_refuse_frames_that_they_cannot_work_on() {
    let refused = |strategy: Temporal, frame| strategy.check(frame).expect_err("refused").to_string();
    let pool = Temporal::Pool2d(Pool2d::default());
    assert!(refused(pool, FrameTokens::loose(720)).starts_with("pool_2d: pools on the patch grid, but the 720 tokens"));
    let small = FrameTokens::on_grid(Grid { height: 8, width: 8 });
    assert!(refused(pool, small).starts_with("pool_2d: pools to 12 x 12, but the patch grid is 8 x 8"));
    assert!(refused(Temporal::Evs(Evs { drop: 1.0 }), small).contains("evs: drops 1 of the tokens"));
    for strategy in Temporal::all() {
        assert!(strategy.check(frame()).is_ok(), "{strategy}");
    }
}

/// Every strategy with options that the draws decide.
fn drawn(which: usize, a: usize, b: usize) -> Temporal {
    match Temporal::all()[which] {
        Temporal::MaxPool(_) => max_pool(a),
        Temporal::Pool2d(pool) => Temporal::Pool2d(Pool2d { height: a, width: b, ..pool }),
        Temporal::Adaptive3d(_) => Temporal::Adaptive3d(Adaptive3d { frames: b, height: a, width: b }),
        Temporal::SlowFast(_) => Temporal::SlowFast(SlowFast { slow_frames: b, slow_stride: a, fast_grid: b }),
        Temporal::TsLlava(view) => Temporal::TsLlava(TsLlava { tokens: 17 * a * b, ..view }),
        Temporal::Evs(_) => Temporal::Evs(Evs { drop: a as f64 / 6.0 }),
        Temporal::OneVision(pool) => Temporal::OneVision(OneVision { stride: a, ..pool }),
        other => other,
    }
}

/// Returns the frames that go into a strategy's fold, with the images that it adds.
fn images(strategy: Temporal, n_frames: usize) -> Tensor {
    let n_images = match strategy.views() {
        Views::Frames => n_frames,
        Views::FramesAndThumbnail { .. } => n_frames + 1,
        Views::Grid { .. } => 1,
    };
    Tensor::randn(0f32, 1.0, (n_images, frame().count, 3), &Device::Cpu).expect("small")
}

fn folded(strategy: Temporal, images: &Tensor, sizes: impl Iterator<Item = usize>) -> Tensor {
    let row = Tensor::ones(3, DType::F32, &Device::Cpu).expect("small");
    let (mut fold, mut start) = (strategy.begin_with(frame(), Some(row)), 0);
    for size in sizes {
        let size = size.min(images.dim(0).expect("rank 3") - start);
        if size > 0 {
            fold.push(&images.narrow(0, start, size).expect("in range")).expect("it fits");
            start += size;
        }
    }
    fold.finish().expect("images came")
}

proptest! {
    #[test]
    fn every_token_count_is_that_of_its_tensor(
        n_frames in 1usize..12, which in 0..Temporal::all().len(), a in 1usize..6, b in 1usize..6,
    ) {
        let strategy = drawn(which, a, b);
        prop_assert!(strategy.check(frame()).is_ok());
        let out = folded(strategy, &images(strategy, n_frames), std::iter::repeat_n(2, 20));
        prop_assert_eq!(out.dims(), [strategy.n_tokens(n_frames, frame()).0, 3]);
    }

    #[test]
    fn frames_that_stand_apart_have_their_own_rows(
        n_frames in 1usize..6, which in 0..Temporal::all().len(), a in 1usize..6, b in 1usize..6,
    ) {
        let strategy = drawn(which, a, b);
        if let Some(rows) = strategy.frame_rows(frame()) {
            let images = images(strategy, n_frames);
            let out = folded(strategy, &images, std::iter::repeat_n(2, 20));
            let alone = folded(strategy, &images.narrow(0, n_frames - 1, 1).expect("one"), std::iter::once(1));
            let own = out.narrow(0, (n_frames - 1) * rows, rows).expect("its rows");
            let values = |x: &Tensor| x.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32");
            prop_assert_eq!(values(&own), values(&alone.narrow(0, 0, rows).expect("its rows")));
        }
    }

    #[test]
    fn batches_do_not_change_the_result(
        n_frames in 1usize..9, which in 0..Temporal::all().len(), a in 1usize..6, b in 1usize..6, split in 1usize..6,
    ) {
        let strategy = drawn(which, a, b);
        let images = images(strategy, n_frames);
        let values = |x: Tensor| x.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32");
        let one_by_one = values(folded(strategy, &images, std::iter::repeat_n(1, 20)));
        prop_assert_eq!(one_by_one, values(folded(strategy, &images, std::iter::repeat_n(split, 20))));
    }
}
