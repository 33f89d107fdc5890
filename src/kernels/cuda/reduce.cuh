// Reductions over a block of whole warps. Every thread receives the result. The order of additions depends on the size
// of the block only, so equal launches are bit-identical.
#pragma once

#include "elements.cuh"

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

struct Sum {
    static __device__ float empty() { return 0.0f; }
    static __device__ float of(float a, float b) { return a + b; }
};

// Maximum that propagates NaN.
struct Maximum {
    static __device__ float empty() { return -INFINITY; }
    static __device__ float of(float a, float b) { return (a > b || a != a) ? a : b; }
};

template <class Op> __device__ float reduce_warp(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = Op::of(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

// Reduces one value per thread over the block. All threads of the block must call it.
template <class Op> __device__ float reduce_block(float x) {
    __shared__ float partial[WARP];
    const unsigned n_warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    x = reduce_warp<Op>(x);
    if (n_warps == 1) return x;
    __syncthreads(); // all threads have read the values of an earlier call
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    return reduce_warp<Op>(lane < n_warps ? partial[lane] : Op::empty());
}
