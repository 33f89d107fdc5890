// Element types of the kernels: f32, f16 and bf16. Arithmetic is in f32; accesses are 16 bytes wide for aligned rows.
//
// Plain CUDA C++: with CUDA_ON_HOST defined the same files compile for the CPU (tests/cuda_on_host).
#pragma once

#ifdef CUDA_ON_HOST
#include "cuda_on_host.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
// Dynamic shared memory, whose size is an argument of the launch.
#define DYNAMIC_SHARED(type, name) \
    extern __shared__ __align__(16) unsigned char dynamic_shared_memory[]; \
    type *name = reinterpret_cast<type *>(dynamic_shared_memory)
#endif

#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Expands INSTANTIATE(type, suffix) for each element type.
#define FOR_EACH_ELEMENT(INSTANTIATE) INSTANTIATE(float, f32) INSTANTIATE(__half, f16) INSTANTIATE(__nv_bfloat16, bf16)

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// Rounds to the nearest element, ties to even.
template <class T> __device__ T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline __half from_float<__half>(float x) { return __float2half_rn(x); }
template <> __device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// Number of elements as a compile-time constant.
template <int N> struct Count {
    static constexpr int value = N;
};

// Elements of a 16-byte access.
template <class T> struct Lanes {
    static constexpr int value = 16 / sizeof(T);
};

// Loads N consecutive elements as f32: one element, or a 16-byte access.
template <int N, class T> __device__ void load(const T *from, float (&to)[N]) {
    if constexpr (N == 1) {
        to[0] = to_float(*from);
    } else {
        static_assert(N == Lanes<T>::value, "an access is one element or 16 bytes");
        const uint4 raw = *reinterpret_cast<const uint4 *>(from);
        T elements[N];
        memcpy(elements, &raw, sizeof raw);
        for (int i = 0; i < N; ++i) to[i] = to_float(elements[i]);
    }
}

// Stores N consecutive elements, rounded: one element, or a 16-byte access.
template <int N, class T> __device__ void store(T *to, const float (&from)[N]) {
    if constexpr (N == 1) {
        *to = from_float<T>(from[0]);
    } else {
        static_assert(N == Lanes<T>::value, "an access is one element or 16 bytes");
        T elements[N];
        for (int i = 0; i < N; ++i) elements[i] = from_float<T>(from[i]);
        uint4 raw;
        memcpy(&raw, elements, sizeof raw);
        *reinterpret_cast<uint4 *>(to) = raw;
    }
}

__device__ inline bool is_aligned() { return true; }

// Returns whether all pointers are aligned to 16 bytes; a null pointer is.
template <class... Rest> __device__ bool is_aligned(const void *first, Rest... rest) {
    return reinterpret_cast<uintptr_t>(first) % 16 == 0 && is_aligned(rest...);
}

// Calls f(first, Count<N>) for the elements first .. first + N of a row, distributed over the threads of the block. N
// is the number of elements of a 16-byte access if the caller guarantees alignment, else 1.
template <class T, class F> __device__ void for_row(uint32_t width, bool aligned, F f) {
    constexpr int N = Lanes<T>::value;
    if (aligned && width % N == 0) {
        for (uint32_t i = threadIdx.x * N; i < width; i += blockDim.x * N) f(i, Count<N>());
    } else {
        for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) f(i, Count<1>());
    }
}

// Calls f like for_row, with the row distributed over the blocks along y: for kernels without a reduction.
template <class T, class F> __device__ void for_row_of_blocks(uint32_t width, bool aligned, F f) {
    constexpr int N = Lanes<T>::value;
    const uint32_t first = blockIdx.y * blockDim.x + threadIdx.x, step = gridDim.y * blockDim.x;
    if (aligned && width % N == 0) {
        for (uint32_t i = first * N; i < width; i += step * N) f(i, Count<N>());
    } else {
        for (uint32_t i = first; i < width; i += step) f(i, Count<1>());
    }
}
