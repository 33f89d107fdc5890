//! Products beside sums in f64, whole and in parts, fused and apart, alone and beside other rows.

use super::*;
use crate::kernels::finite_difference::random_elements as random;

#[test]
fn every_kernel_gives_the_sums_of_products_in_every_shape() {
    let shapes = [(1, 1, 1), (3, 7, 5), (14, 16, 32), (15, 33, 33), (29, 5, 100), (20, 600, 300), (200, 70, 131)];
    for kernel in kernel::all() {
        for (rows, depth, columns) in shapes {
            let (x, w, bias) = (random(rows * depth, 1), random(columns * depth, 2), random(columns, 3));
            let residual = random(rows * columns, 4);
            let packed = PackedMatrix::transpose_of(&w, depth, kernel);
            let epilogue = Epilogue {
                bias: Some(&bias),
                activation: Some(|y| y.iter_mut().for_each(|y| *y *= 2.0)),
                residual: Some(&residual),
            };
            let y = product(&x, &packed, Some(&|x, y| y.iter_mut().zip(x).for_each(|(y, x)| *y = -x)), epilogue);
            for (m, n) in (0..rows).flat_map(|m| (0..columns).map(move |n| (m, n))) {
                let pairs = x[m * depth..][..depth].iter().zip(&w[n * depth..][..depth]);
                let sum: f64 = pairs.map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                let exact = 2.0 * (f64::from(bias[n]) - sum) + f64::from(residual[m * columns + n]);
                let difference = (f64::from(y[m * columns + n]) - exact).abs();
                assert!(difference < 2e-5 * depth as f64, "{rows} x {depth} x {columns} at {m}, {n}: {difference}");
            }
        }
    }
}

#[test]
fn sums_over_parts_of_the_depth_are_those_over_the_whole() {
    // Columns for groups of several panels, the last of which is not full.
    for (rows, depth, columns) in [(33, 2 * DEPTH + 70, 75), (1, 64, 1100), (20, 64, 1100)] {
        let (x, w, bias) = (random(rows * depth, 1), random(columns * depth, 2), random(columns, 3));
        let residual = random(rows * columns, 4);
        let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual), ..Epilogue::default() };
        for kernel in kernel::all() {
            let packed = PackedMatrix::transpose_of(&w, depth, kernel);
            let mut in_parts = vec![f32::NAN; rows * columns];
            block(&x, &packed, &mut in_parts, epilogue);
            assert!(few_rows(&x, &packed, None, epilogue) == in_parts, "{rows} rows");
        }
    }
}

#[test]
fn two_products_are_one_after_the_other() {
    let (depth, hidden) = (64, 96);
    let bias = random(hidden, 1);
    for rows in [0, 1, 13, 100, 2000] {
        let (x, w1, w2) = (random(rows * depth, 2), random(hidden * depth, 3), random(depth * hidden, 4));
        for kernel in kernel::all() {
            let (w1, w2) =
                (PackedMatrix::transpose_of(&w1, depth, kernel), PackedMatrix::transpose_of(&w2, hidden, kernel));
            let first = Epilogue { bias: Some(&bias), ..Epilogue::default() };
            let halve: Prologue<'_> = Some(&|x, y| y.iter_mut().zip(x).for_each(|(y, x)| *y = x / 2.0));
            let between = product(&x, &w1, halve, first);
            let separate = product(&between, &w2, None, Epilogue { residual: Some(&x), ..Epilogue::default() });
            let up = WeightFactor { weight: &w1, epilogue: first };
            let down = WeightFactor { weight: &w2, epilogue: Epilogue::default() };
            assert!(two_products(&x, halve, up, down) == separate, "{rows} rows");
        }
    }
}

#[test]
fn a_row_is_bit_identical_beside_any_rows() {
    // Large enough for several threads: they share the weight for few rows, the rows for many.
    let (depth, columns) = (203, 5000);
    let (x, w) = (random(90 * depth, 3), random(columns * depth, 4));
    for kernel in kernel::all() {
        let packed = PackedMatrix::transpose_of(&w, depth, kernel);
        let run = |x: &[f32]| product(x, &packed, None, Epilogue::default());
        let alone: Vec<f32> = x.chunks(depth).flat_map(run).collect();
        for rows in [2, 3, 13, 14, 15, 27, 28, 29, 90] {
            assert!(run(&x[..rows * depth]) == alone[..rows * columns], "{rows} rows");
        }
    }
}
