// Indices of the k largest elements of a vector, in ascending order of the indices.
#include "reduce.cuh"

constexpr int DIGIT_BITS = 8;
constexpr uint32_t DIGITS = 1u << DIGIT_BITS;

// Key in the total order of the elements (IEEE 754, section 5.10).
__device__ inline uint32_t to_key(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// k-th largest key, and the number of keys equal to it that are among the k largest.
struct Threshold {
    uint32_t key;
    uint32_t n_equal;
};

// Finds the threshold digit by digit, the most significant first (radix selection). All threads of the block must call
// it.
__device__ inline Threshold find_threshold(const float *x, uint32_t n, uint32_t k) {
    __shared__ uint32_t counts[DIGITS];
    __shared__ Threshold threshold;
    if (threadIdx.x == 0) threshold = {0, k};
    for (int shift = 32 - DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        for (uint32_t digit = threadIdx.x; digit < DIGITS; digit += blockDim.x) counts[digit] = 0;
        __syncthreads();
        const uint64_t higher = uint64_t(threshold.key) >> (shift + DIGIT_BITS);
        for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
            const uint32_t key = to_key(x[i]);
            if (uint64_t(key) >> (shift + DIGIT_BITS) == higher) atomicAdd(&counts[key >> shift & (DIGITS - 1)], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t digit = DIGITS - 1;
            for (; counts[digit] < threshold.n_equal; --digit) threshold.n_equal -= counts[digit];
            threshold.key |= digit << shift;
        }
        __syncthreads();
    }
    return threshold;
}

// Sum of x over the threads of the block before this one; `total` receives that over all. All threads must call it.
__device__ inline uint32_t sum_before(uint32_t x, uint32_t &total) {
    __shared__ uint32_t of_warps[WARP];
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint32_t sum = x;
    for (uint32_t distance = 1; distance < WARP; distance *= 2) {
        const uint32_t before = __shfl_up_sync(ALL_LANES, sum, distance);
        if (lane >= distance) sum += before;
    }
    __syncthreads(); // all threads have read the sums of an earlier call
    if (lane == WARP - 1) of_warps[warp] = sum;
    __syncthreads();
    uint32_t before_warp = 0;
    total = 0;
    for (uint32_t i = 0; i < blockDim.x / WARP; ++i) {
        if (i < warp) before_warp += of_warps[i];
        total += of_warps[i];
    }
    return before_warp + sum - x;
}

// x (n) to ids (k), k from 1 to n; of equal elements the first are taken. Grid 1.
extern "C" __global__ void __launch_bounds__(1024)
    largest_indices(const float *x, uint32_t *ids, uint32_t n, uint32_t k) {
    const Threshold threshold = find_threshold(x, n, k);
    // Numbers of larger and of equal elements before this part of the vector.
    uint32_t n_larger = 0, n_equal = 0;
    for (uint32_t first = 0; first < n; first += blockDim.x) {
        const uint32_t i = first + threadIdx.x, key = i < n ? to_key(x[i]) : 0;
        const bool is_larger = i < n && key > threshold.key, is_equal = i < n && key == threshold.key;
        uint32_t larger_in_part, equal_in_part;
        const uint32_t larger = n_larger + sum_before(is_larger, larger_in_part);
        const uint32_t equal = n_equal + sum_before(is_equal, equal_in_part);
        if (is_larger || (is_equal && equal < threshold.n_equal)) ids[larger + min(equal, threshold.n_equal)] = i;
        n_larger += larger_in_part;
        n_equal += equal_in_part;
    }
}
