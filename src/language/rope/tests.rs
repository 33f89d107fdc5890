//! Frequencies against hand-worked values and those of transformers, and gradients of rotations.

use candle_core::{DType, Device, Tensor};

use super::*;

fn rope(d_head: usize, scaling: RopeScaling) -> Rope {
    Rope { d_head, theta: 100.0, scaling }
}

#[test]
fn rotations_have_their_gradients_at_any_positions() {
    use crate::nn::finite_difference::{assert_gradients, random};
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 1.5,
        original_context: 8.0,
        ramp: RampEnds::Whole,
    };
    for scaling in [RopeScaling::None, yarn] {
        let table = RopeTable::new(&rope(4, scaling), 9, DType::F32, &Device::Cpu).expect("small");
        let positions = Tensor::new(&[[0u32, 5, 2], [8, 1, 1]], &Device::Cpu).expect("small");
        let angles = table.at(&positions).expect("all below 9");
        assert_gradients(&[random((2, 2, 3, 4), 1)], |t| angles.rotate(&t[0]));
    }
}

#[test]
fn linear_scaling_divides_and_llama3_keeps_the_short_waves() {
    let frequencies = |scaling| rope(4, scaling).inverse_frequencies(64);
    assert_eq!(frequencies(RopeScaling::None), [1.0, 0.1]);
    assert_eq!(frequencies(RopeScaling::Linear { factor: 4.0 }), [0.25, 0.025]);
    let llama3 =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 40.0 };
    // Waves of 6.3 (under 40 / 4) and 62.8 (over 40 / 1) positions.
    assert_eq!(frequencies(llama3), [1.0, 0.1 / 8.0]);
}

#[test]
fn dynamic_ntk_grows_the_base_beyond_the_original_context() {
    let ntk = RopeScaling::DynamicNtk { factor: 2.0, original_context: 40.0 };
    assert_eq!(rope(4, ntk).inverse_frequencies(40), [1.0, 0.1]);
    // Twice the context: 100 (2 x 2 - 1) ^ (4 / 2) = 900.
    let grown = rope(4, ntk).inverse_frequencies(80);
    assert!(grown[0] == 1.0 && (grown[1] - 1.0 / 30.0).abs() < 1e-6, "{grown:?}");
    assert_eq!([10, 40, 41].map(|n| ntk.deciding_length(n)), [40, 40, 41]);
    assert_eq!(RopeScaling::None.deciding_length(9), 0);
}

#[test]
fn dynamic_ntk_rotates_a_prompt_at_its_length_and_each_later_position_at_the_length_so_far() {
    let ntk = rope(4, RopeScaling::DynamicNtk { factor: 2.0, original_context: 4.0 });
    let angle =
        |prompt, position: usize| ntk.angles(std::iter::once(RopeRow { position, n_prompt: prompt })).1[1].asin();
    let at_length = |length, position: usize| position as f32 * ntk.inverse_frequencies(length)[1];
    for (prompt, position, length) in [(3, 2, 4), (3, 3, 4), (3, 4, 5), (6, 1, 6), (6, 5, 6), (6, 7, 8)] {
        let (found, expected) = (angle(prompt, position), at_length(length, position));
        assert!((found - expected).abs() < 1e-6, "{prompt} {position}: {found} {expected}");
    }
}

#[test]
fn yarn_is_that_of_transformers() {
    // _compute_yarn_parameters of transformers 5.24: head_dim 16, rope_theta 10000, factor 4, original 64.
    let yarn = |ramp| RopeScaling::Yarn {
        factor: 4.0,
        beta_fast: 4.0,
        beta_slow: 0.5,
        attention_factor: 1.0,
        original_context: 64.0,
        ramp,
    };
    let frequencies = |ramp| Rope { d_head: 16, theta: 10_000.0, scaling: yarn(ramp) }.inverse_frequencies(0);
    for (ramp, expected) in [(RampEnds::Whole, YARN_WHOLE), (RampEnds::Exact, YARN_EXACT)] {
        let found = frequencies(ramp);
        let worst = found.iter().zip(expected).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f32::max);
        assert!(found.len() == 8 && worst < 1e-5, "{found:?}");
    }
}

const YARN_WHOLE: [f32; 8] = [1.0, 2.371708e-1, 5e-2, 7.905695e-3, 2.5e-3, 7.905695e-4, 2.5e-4, 7.905695e-5];
const YARN_EXACT: [f32; 8] = [1.0, 2.915256e-1, 5.06644e-2, 7.905695e-3, 2.5e-3, 7.905695e-4, 2.5e-4, 7.905695e-5];
