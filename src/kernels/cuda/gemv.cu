// A linear layer of one row: the product of a matrix and a vector, with bias, activation and residual.
//
// Decoding one sequence reads every weight once for two operations, so it is bound by memory bandwidth. A warp computes
// an output; each lane has several 16-byte accesses in flight. Accumulated in f32, rounded once.
#include "activation.cuh"
#include "reduce.cuh"

// Number of accesses of a lane in flight.
constexpr uint32_t AHEAD = 4;

// y = activation(weight x + bias) + residual: x (K), weight (N, K), y, bias and residual (N); null where there is none.
// Grid (N / warps of a block).
template <class T>
__device__ void gemv(T *y, const T *weight, const T *x, const T *bias, const T *residual, uint32_t n, uint32_t k,
                     uint32_t activation) {
    constexpr uint32_t LANES = Lanes<T>::value, STEP = WARP * LANES;
    const uint32_t row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= n) return;
    const bool aligned = is_aligned(weight, x) && k % LANES == 0;
    weight += size_t(row) * k;
    float sums[AHEAD] = {};
    if (aligned) {
        uint32_t i = lane * LANES;
        for (; i + (AHEAD - 1) * STEP < k; i += AHEAD * STEP) {
            float w[AHEAD][LANES];
            for (uint32_t a = 0; a < AHEAD; ++a) load<LANES>(weight + i + a * STEP, w[a]);
            for (uint32_t a = 0; a < AHEAD; ++a) {
                float v[LANES];
                load<LANES>(x + i + a * STEP, v);
                for (uint32_t j = 0; j < LANES; ++j) sums[a] += w[a][j] * v[j];
            }
        }
        for (; i < k; i += STEP) {
            float w[LANES], v[LANES];
            load<LANES>(weight + i, w);
            load<LANES>(x + i, v);
            for (uint32_t j = 0; j < LANES; ++j) sums[0] += w[j] * v[j];
        }
    } else {
        for (uint32_t i = lane; i < k; i += WARP) sums[0] += to_float(weight[i]) * to_float(x[i]);
    }
    static_assert(AHEAD == 4, "four sums are added below");
    const float sum = reduce_warp<Sum>((sums[0] + sums[1]) + (sums[2] + sums[3]));
    if (lane != 0) return;
    const float biased = sum + (bias == nullptr ? 0.0f : to_float(bias[row]));
    y[row] = from_float<T>(activate(biased, activation) + (residual == nullptr ? 0.0f : to_float(residual[row])));
}

#define INSTANTIATE(T, suffix)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        gemv_##suffix(T *y, const T *weight, const T *x, const T *bias, const T *residual, uint32_t n, uint32_t k,     \
                      uint32_t activation) {                                                                           \
        gemv(y, weight, x, bias, residual, n, k, activation);                                                          \
    }
FOR_EACH_ELEMENT(INSTANTIATE)
