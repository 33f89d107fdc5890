// Argmax of each row, the first of equal elements.
#include "reduce.cuh"

constexpr uint32_t NO_INDEX = 0xffffffffu;

// Candidate of the reduction. NaN is larger than all values, so that it is always found.
struct Largest {
    float value;
    uint32_t index;
};

__device__ inline Largest larger(Largest a, Largest b) {
    if (a.value != a.value) return a;
    if (b.value != b.value) return b;
    if (a.value > b.value) return a;
    if (b.value > a.value) return b;
    return a.index < b.index ? a : b;
}

__device__ inline Largest reduce_warp_largest(Largest x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        Largest other = {__shfl_xor_sync(ALL_LANES, x.value, offset), __shfl_xor_sync(ALL_LANES, x.index, offset)};
        x = larger(x, other);
    }
    return x;
}

// x (R, width) to ids (R); NO_INDEX for a row with a NaN or an infinite maximum.
// Grid (R), block 1024 threads.
template <class T> __device__ void argmax_rows(const T *x, uint32_t *ids, uint32_t width) {
    __shared__ Largest of_warps[WARP];
    x += size_t(blockIdx.x) * width;
    Largest largest = {-INFINITY, NO_INDEX};
    for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) largest = larger(largest, {to_float(x[i]), i});
    largest = reduce_warp_largest(largest);
    if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = largest;
    __syncthreads();
    if (threadIdx.x >= WARP) return;
    if (threadIdx.x < blockDim.x / WARP) largest = of_warps[threadIdx.x];
    else largest = {-INFINITY, NO_INDEX};
    largest = reduce_warp_largest(largest);
    const bool is_finite = largest.value == largest.value && fabsf(largest.value) != INFINITY;
    if (threadIdx.x == 0) ids[blockIdx.x] = is_finite ? largest.index : NO_INDEX;
}

#define INSTANTIATE(T, suffix)                                                                                         \
    extern "C" __global__ void __launch_bounds__(1024)                                                                 \
        argmax_rows_##suffix(const T *x, uint32_t *ids, uint32_t width) {                                              \
        argmax_rows(x, ids, width);                                                                                    \
    }
FOR_EACH_ELEMENT(INSTANTIATE)
