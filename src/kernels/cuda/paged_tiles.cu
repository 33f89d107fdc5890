// Paged attention of few queries on tensor cores, in f16 and bf16: the tasks of paged_decode.cu with several queries,
// from rows that share pages and heads that share a key-value head.
//
// A block computes up to 16 queries of a key-value head. Its warps take 16 keys of one page round-robin, and their sums
// are joined at the end. Keys and values are loaded from the page to registers, 16 bytes at a time, for m16n8k16
// products (mma.cuh): the order of a sum's terms is free, so both factors keep the order in which lanes load them.
// Scores, softmax (arXiv 1805.02867) and sums are in f32; weights are rounded to the element type before the product
// with the values.
#include "mma.cuh"
#include "paged_tasks.cuh"

constexpr uint32_t QUERIES = 16, KEYS = 16;

#ifndef NO_TENSOR_CORES

__device__ inline uint4 load_words(const void *from) { return *reinterpret_cast<const uint4 *>(from); }

// Return the lower and the upper elements of two words.
__device__ inline uint32_t lower(uint32_t a, uint32_t b) { return (a & 0xffffu) | b << 16; }
__device__ inline uint32_t upper(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); }

// Adds the products of two keys' words with the weights: sums of element 2 i and 2 i + 1 of each lane's eight.
template <class T>
__device__ void multiply_values(float (&even)[4], float (&odd)[4], const uint32_t (&weights)[4], uint32_t a, uint32_t b,
                                uint32_t c, uint32_t d) {
    multiply(even, weights, {lower(a, b), lower(c, d)}, T());
    multiply(odd, weights, {upper(a, b), upper(c, d)}, T());
}

// D: elements of a head, a multiple of 64. Grid: x tasks, y key-value heads times tiles of 16 queries. Shared memory:
// WARPS QUERIES (D + 2) floats.
template <class T, int D>
__device__ void paged_tiles(const T *queries, const RowInfo *rows, const uint64_t *tables, const DecodeTask *tasks,
                            T *y, float *partials, float *partial_sums, PageShape shape, float *shared) {
    const DecodeTask &task = tasks[blockIdx.x];
    const uint32_t group = shape.n_heads / shape.n_kv_heads;
    const uint32_t kv_head = blockIdx.y % shape.n_kv_heads, first_query = blockIdx.y / shape.n_kv_heads * QUERIES;
    if (first_query >= task.n_rows * group) return;
    const uint32_t n_queries = min(task.n_rows * group - first_query, QUERIES);
    const uint32_t warp = threadIdx.x / WARP, line = threadIdx.x % WARP / 4, column = threadIdx.x % 4;

    // Products 2 b and 2 b + 1 take the elements 32 b .. 32 b + 32: a lane's eight, four of them each.
    uint32_t q[D / 16][4];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const uint32_t query = first_query + line + 8 * r;
        const bool is_query = line + 8 * r < n_queries;
        const uint32_t row = is_query ? task.rows[query / group] : 0;
        const size_t at = is_query ? query_at(rows[row], row, kv_head * group + query % group, shape) : 0;
#pragma unroll
        for (int b = 0; b < D / 32; ++b) {
            uint4 words = {0, 0, 0, 0};
            if (is_query) words = load_words(queries + at + 32 * b + 8 * column);
            q[2 * b][r] = words.x;
            q[2 * b][r + 2] = words.y;
            q[2 * b + 1][r] = words.z;
            q[2 * b + 1][r + 2] = words.w;
        }
    }

    // Element x of part 8 b + e is that of query line + 8 (x / 2) and element 64 b + 8 (2 column + x % 2) + e.
    float sums[D / 8][4] = {};
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    for (uint32_t base = task.first + warp * KEYS; base < task.end; base += WARPS * KEYS) {
        const uint64_t page = tables[task.table + base / PAGE_LEN];
        const T *keys = page_head<T>(page, shape, 0, kv_head) + (size_t)(base % PAGE_LEN) * D;
        const T *values = page_head<T>(page, shape, 1, kv_head) + (size_t)(base % PAGE_LEN) * D;
        const uint32_t n_keys = min(task.end - base, KEYS);
        uint4 k[2][D / 32], v[D / 64][4];
#pragma unroll
        for (int t = 0; t < 2; ++t)
#pragma unroll
            for (int b = 0; b < D / 32; ++b) k[t][b] = load_words(keys + (8 * t + line) * D + 32 * b + 8 * column);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint32_t key = 2 * column + i % 2 + 8 * (i / 2);
#pragma unroll
            for (int b = 0; b < D / 64; ++b) {
                // Memory behind the last key may be NaN, which a weight of 0 does not cancel.
                v[b][i] = {0, 0, 0, 0};
                if (key < n_keys) v[b][i] = load_words(values + key * D + 64 * b + 8 * line);
            }
        }

        // Element e of part t is that of query line + 8 (e / 2) and key 8 t + 2 column + e % 2.
        float scores[2][4] = {};
#pragma unroll
        for (int b = 0; b < D / 32; ++b)
#pragma unroll
            for (int t = 0; t < 2; ++t) {
                multiply(scores[t], q[2 * b], {k[t][b].x, k[t][b].y}, T());
                multiply(scores[t], q[2 * b + 1], {k[t][b].z, k[t][b].w}, T());
            }
        if (n_keys < KEYS)
#pragma unroll
            for (int t = 0; t < 2; ++t)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    if (8 * t + 2 * column + e % 2 >= n_keys) scores[t][e] = -INFINITY;

        float factors[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float now = fmaxf(largest[r], fmaxf(fmaxf(scores[0][2 * r], scores[0][2 * r + 1]),
                                                fmaxf(scores[1][2 * r], scores[1][2 * r + 1])));
            now = largest_of_row(now);
            factors[r] = weight(largest[r], now);
            largest[r] = now;
            sum[r] *= factors[r];
#pragma unroll
            for (int t = 0; t < 2; ++t)
#pragma unroll
                for (int e = 2 * r; e < 2 * r + 2; ++e) {
                    scores[t][e] = weight(scores[t][e], now);
                    sum[r] += scores[t][e];
                }
        }
#pragma unroll
        for (int j = 0; j < D / 8; ++j)
#pragma unroll
            for (int x = 0; x < 4; ++x) sums[j][x] *= factors[x / 2];

        const uint32_t p[4] = {pack<T>(scores[0][0], scores[0][1]), pack<T>(scores[0][2], scores[0][3]),
                               pack<T>(scores[1][0], scores[1][1]), pack<T>(scores[1][2], scores[1][3])};
#pragma unroll
        for (int b = 0; b < D / 64; ++b) {
            const uint4 &v0 = v[b][0], &v1 = v[b][1], &v2 = v[b][2], &v3 = v[b][3];
            multiply_values<T>(sums[8 * b], sums[8 * b + 1], p, v0.x, v1.x, v2.x, v3.x);
            multiply_values<T>(sums[8 * b + 2], sums[8 * b + 3], p, v0.y, v1.y, v2.y, v3.y);
            multiply_values<T>(sums[8 * b + 4], sums[8 * b + 5], p, v0.z, v1.z, v2.z, v3.z);
            multiply_values<T>(sums[8 * b + 6], sums[8 * b + 7], p, v0.w, v1.w, v2.w, v3.w);
        }
    }

    float *warp_sums = shared + WARPS * QUERIES * D;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const uint32_t query = warp * QUERIES + line + 8 * r;
        const float whole = sum_of_row(sum[r]);
        if (column == 0) {
            warp_sums[2 * query] = largest[r];
            warp_sums[2 * query + 1] = whole;
        }
#pragma unroll
        for (int j = 0; j < D / 8; ++j)
#pragma unroll
            for (int x = 0; x < 2; ++x)
                shared[query * D + 64 * (j / 8) + 8 * (2 * column + x) + j % 8] = sums[j][2 * r + x];
    }
    __syncthreads();
    write_results<T, QUERIES>(shared, warp_sums, D, {&task, first_query, n_queries, kv_head, group}, shape, y, partials,
                              partial_sums);
}

#endif

#define TILES_KERNEL(T, NAME, D)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128) paged_tiles_##D##_##NAME(                                        \
        const T *queries, const RowInfo *rows, const uint64_t *tables, const DecodeTask *tasks, T *y, float *partials, \
        float *partial_sums, uint32_t n_heads, uint32_t n_kv_heads, uint32_t d_head, uint32_t layer) {                 \
        DYNAMIC_SHARED(float, shared);                                                                                 \
        RUN(paged_tiles<T, D>(queries, rows, tables, tasks, y, partials, partial_sums,                                 \
                              {n_heads, n_kv_heads, d_head, layer}, shared);)                                          \
    }
#define TILES_KERNELS(T, NAME) TILES_KERNEL(T, NAME, 64) TILES_KERNEL(T, NAME, 128)
TILES_KERNELS(__half, f16)
TILES_KERNELS(__nv_bfloat16, bf16)
