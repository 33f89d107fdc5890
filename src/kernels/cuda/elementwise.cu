// Elementwise operations in one launch each: epilogues (bias, activation, residual), SwiGLU gates (arXiv 2002.05202)
// and running sums. Computed in f32, rounded once.
//
// Grid (R, blocks that share a row).
#include "activation.cuh"

// y = activation(y + bias) + residual, in place. y and residual (R, width), bias (width); null where there is none.
template <class T>
__device__ void epilogue(T *y, const T *bias, const T *residual, uint32_t width, uint32_t activation) {
    const bool aligned = is_aligned(y, bias, residual);
    y += size_t(blockIdx.x) * width;
    if (residual != nullptr) residual += size_t(blockIdx.x) * width;
    for_row_of_blocks<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float v[N], b[N] = {}, r[N] = {};
        load<N>(y + i, v);
        if (bias != nullptr) load<N>(bias + i, b);
        if (residual != nullptr) load<N>(residual + i, r);
        for (int k = 0; k < N; ++k) v[k] = activate(v[k] + b[k], activation) + r[k];
        store<N>(y + i, v);
    });
}

// y = silu(gate) up: y (R, width) contiguous, rows of gate and up at strides of their own.
template <class T>
__device__ void swiglu(T *y, const T *gate, const T *up, uint32_t width, uint32_t gate_distance, uint32_t up_distance) {
    constexpr int LANES = Lanes<T>::value;
    const bool aligned = is_aligned(y, gate, up) && gate_distance % LANES == 0 && up_distance % LANES == 0;
    y += size_t(blockIdx.x) * width;
    gate += size_t(blockIdx.x) * gate_distance;
    up += size_t(blockIdx.x) * up_distance;
    for_row_of_blocks<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float g[N], u[N];
        load<N>(gate + i, g);
        load<N>(up + i, u);
        for (int k = 0; k < N; ++k) g[k] = g[k] * sigmoid(g[k]) * u[k];
        store<N>(y + i, g);
    });
}

// sum += x: a running sum in f32 of elements of any type. sum and x (R, width).
template <class T> __device__ void accumulate(float *sum, const T *x, uint32_t width) {
    constexpr int LANES = Lanes<T>::value, SUM_LANES = Lanes<float>::value;
    const bool aligned = is_aligned(sum, x);
    sum += size_t(blockIdx.x) * width;
    x += size_t(blockIdx.x) * width;
    for_row_of_blocks<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float v[N];
        load<N>(x + i, v);
        if constexpr (N == 1) {
            sum[i] += v[0];
        } else {
            for (int part = 0; part < LANES; part += SUM_LANES) {
                float s[SUM_LANES];
                load<SUM_LANES>(sum + i + part, s);
                for (int k = 0; k < SUM_LANES; ++k) s[k] += v[part + k];
                store<SUM_LANES>(sum + i + part, s);
            }
        }
    });
}

#define INSTANTIATE(T, suffix) \
    extern "C" __global__ void epilogue_##suffix(T *y, const T *bias, const T *residual, uint32_t width, \
                                                 uint32_t activation) { \
        epilogue(y, bias, residual, width, activation); \
    } \
    extern "C" __global__ void swiglu_##suffix(T *y, const T *gate, const T *up, uint32_t width, \
                                               uint32_t gate_distance, uint32_t up_distance) { \
        swiglu(y, gate, up, width, gate_distance, up_distance); \
    } \
    extern "C" __global__ void accumulate_##suffix(float *sum, const T *x, uint32_t width) { \
        accumulate(sum, x, width); \
    }
FOR_EACH_ELEMENT(INSTANTIATE)
