// The k largest elements of each row, in descending order.
#include "elements.cuh"

// Keys that a block sorts in shared memory: twice the threads of a block.
constexpr uint32_t CAPACITY = 2048;

// Key in the order of the elements, the first of equal elements largest. Keys of a row are distinct and not 0. NaN is
// larger than all values.
__device__ inline uint64_t to_key(float x, uint32_t index) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) bits = 0xffffffffu;
    else if (x == 0.0f) bits = 0x80000000u; // also negative zero
    else bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return uint64_t(bits) << 32 | (0xffffffffu - index);
}

__device__ inline uint32_t index_of(uint64_t key) { return 0xffffffffu - uint32_t(key); }

// Bits of the element as f32.
__device__ inline uint32_t value_of(uint64_t key) {
    const uint32_t bits = uint32_t(key >> 32);
    return bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
}

// Sorts keys in shared memory in descending order: bitonic sort of n keys, n a power of two. All threads of the block
// must call it; they may read the keys when it returns.
__device__ inline void sort_descending(uint64_t *keys, uint32_t n) {
    for (uint32_t length = 2; length <= n; length *= 2) {
        for (uint32_t distance = length / 2; distance > 0; distance /= 2) {
            __syncthreads();
            for (uint32_t i = threadIdx.x; i < n / 2; i += blockDim.x) {
                const uint32_t a = 2 * i - i % distance, b = a + distance;
                const uint64_t first = keys[a], second = keys[b];
                if ((first < second) == ((a & length) == 0)) {
                    keys[a] = second;
                    keys[b] = first;
                }
            }
        }
    }
    __syncthreads();
}

// x (R, width) to top (R, 2, k): indices, then elements as bits of f32. k is at most the width and the block's threads.
// Grid (R), block CAPACITY / 2.
//
// The k-th largest maximum of a thread bounds the k-th largest element from below. Elements below the bound are
// dropped; while the others exceed the capacity, the largest of those that were kept give a larger bound.
template <class T> __device__ void top_k_rows(const T *x, uint32_t *top, uint32_t width, uint32_t k) {
    __shared__ uint64_t keys[CAPACITY];
    __shared__ uint32_t n_kept;
    x += size_t(blockIdx.x) * width;
    top += size_t(blockIdx.x) * 2 * k;
    uint64_t largest = 0;
    for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) largest = max(largest, to_key(to_float(x[i]), i));
    keys[threadIdx.x] = largest;
    sort_descending(keys, blockDim.x);
    for (;;) {
        const uint64_t bound = keys[k - 1];
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < CAPACITY; i += blockDim.x) keys[i] = 0;
        if (threadIdx.x == 0) n_kept = 0;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) {
            const uint64_t key = to_key(to_float(x[i]), i);
            if (key < bound) continue;
            const uint32_t slot = atomicAdd(&n_kept, 1u);
            if (slot < CAPACITY) keys[slot] = key;
        }
        sort_descending(keys, CAPACITY);
        if (n_kept <= CAPACITY) break;
    }
    if (threadIdx.x >= k) return;
    top[threadIdx.x] = index_of(keys[threadIdx.x]);
    top[k + threadIdx.x] = value_of(keys[threadIdx.x]);
}

#define INSTANTIATE(T, suffix)                                                                                         \
    extern "C" __global__ void __launch_bounds__(1024)                                                                 \
        top_k_rows_##suffix(const T *x, uint32_t *top, uint32_t width, uint32_t k) {                                   \
        top_k_rows(x, top, width, k);                                                                                  \
    }
FOR_EACH_ELEMENT(INSTANTIATE)
