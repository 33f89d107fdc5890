// PTX instructions of tiled kernels: matrix products of a warp on tensor cores (mma), loads of their fragments from
// shared memory (ldmatrix), and asynchronous copies to shared memory (cp.async).
//
// Layouts are those of the PTX manual ("Matrix Fragments for mma.m16n8k16", "ldmatrix", "cp.async"), for compute
// capability 8.0 and later. On the CPU tests/cuda_on_host/mma_on_host.h emulates the instructions.
#pragma once

#include "reduce.cuh"

#ifdef CUDA_ON_HOST
#include "mma_on_host.h"
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
// Older GPUs lack these instructions. Kernels with tensor cores are empty there.
#define NO_TENSOR_CORES
#else

// d += a b with a (16, 16), b (16, 8) and d (16, 8) in f32, over the warp's registers.
__device__ inline void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline uint32_t shared_address(const void *shared) { return uint32_t(__cvta_generic_to_shared(shared)); }

// Loads four matrices of 8 x 8 16-bit elements: lane l passes the address of row l % 8 of matrix l / 8, 16 bytes each.
// Register m of lane l receives the elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of matrix m.
__device__ inline void load_matrices(uint32_t (&to)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Loads like load_matrices, with each matrix transposed.
__device__ inline void load_matrices_transposed(uint32_t (&to)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Begins an asynchronous copy of 16 bytes to shared memory: `n` bytes (0 or 16) are read, the rest is set to 0.
__device__ inline void begin_copy(void *shared, const void *global, uint32_t n) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(n)
                 : "memory");
}

// Commits the copies of this thread as a group.
__device__ inline void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the N latest groups of this thread are pending.
template <int N> __device__ void wait_for_groups() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

#endif

// Body of a kernel with tensor cores, empty on GPUs without them.
#ifdef NO_TENSOR_CORES
#define RUN(...)
#else
#define RUN(...) __VA_ARGS__

// Packs two elements in a word, the first in the low half.
template <class T> __device__ uint32_t pack(float low, float high) {
    const T elements[2] = {from_float<T>(low), from_float<T>(high)};
    uint32_t word;
    memcpy(&word, elements, sizeof word);
    return word;
}

// Return the maximum and the sum over the four lanes of a row of a product.
__device__ inline float largest_of_row(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}
__device__ inline float sum_of_row(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}
#endif
