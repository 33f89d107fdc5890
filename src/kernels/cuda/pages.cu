// Rotary embedding with cache write; and for the GEMMs of prefill, gathering of pages to a matrix and interleaving of
// heads into rows.

#include "pages.cuh"

// Rotates the queries and keys of a step, scales the queries, and writes keys and values to pages.
//
// qkv (n_rows, (n_heads + 2 n_kv_heads) d_head), cos and sin (n_rows, d_head / 2) in f32. Queries are written to
// `queries` at query_at, keys and values to the page of the row's position. Arithmetic in f32, one rounding.
// Grid: x rows, y parts of a row's pairs; a thread rotates N pairs of elements half a head apart (rotate_half of
// transformers).
template <class T, int N>
__device__ void rope_store(const T *qkv, const float *cos, const float *sin, const RowInfo *rows,
                           const uint64_t *tables, T *queries, PageShape shape, float scale) {
    uint32_t row = blockIdx.x, half = shape.d_head / 2;
    RowInfo info = rows[row];
    uint32_t n_heads = shape.n_heads + 2 * shape.n_kv_heads, packs = half / N;
    const T *x = qkv + (size_t)row * n_heads * shape.d_head;
    uint64_t page = tables[info.table + info.position / PAGE_LEN];
    size_t in_page = (size_t)(info.position % PAGE_LEN) * shape.d_head;
    for (uint32_t i = blockIdx.y * blockDim.x + threadIdx.x; i < n_heads * packs; i += gridDim.y * blockDim.x) {
        uint32_t head = i / packs, pair = i % packs * N;
        Pack<T, N> first = load_pack<T, N>(x + (size_t)head * shape.d_head + pair);
        Pack<T, N> second = load_pack<T, N>(x + (size_t)head * shape.d_head + half + pair);
        T *to;
        float factor = 1.0f;
        if (head < shape.n_heads) {
            to = queries + query_at(info, row, head, shape);
            factor = scale;
        } else {
            uint32_t part = head < shape.n_heads + shape.n_kv_heads ? 0 : 1;
            uint32_t kv = head - shape.n_heads - part * shape.n_kv_heads;
            to = page_head<T>(page, shape, part, kv) + in_page;
        }
        if (head < shape.n_heads + shape.n_kv_heads) {
            for (int k = 0; k < N; k++) {
                float a = to_float(first.e[k]), b = to_float(second.e[k]);
                float c = cos[(size_t)row * half + pair + k], s = sin[(size_t)row * half + pair + k];
                first.e[k] = from_float<T>((a * c - b * s) * factor);
                second.e[k] = from_float<T>((a * s + b * c) * factor);
            }
        }
        store_pack<T, N>(to + pair, first);
        store_pack<T, N>(to + half + pair, second);
    }
}

// Copies the keys and values of a sequence's first positions to two matrices (n_kv_heads, n_pages * PAGE_LEN, d_head);
// positions from n_keys on are set to 0.
// Grid: x pages, y key-value heads, z keys and values.
template <class T>
__device__ void gather_pages(const uint64_t *table, T *keys, T *values, uint32_t n_keys, PageShape shape) {
    uint32_t index = blockIdx.x, head = blockIdx.y, part = blockIdx.z, n = PAGE_LEN * shape.d_head;
    const T *from = page_head<T>(table[index], shape, part, head);
    T *to = (part == 0 ? keys : values) + ((size_t)head * gridDim.x + index) * n;
    uint32_t first = index * PAGE_LEN;
    uint32_t n_valid = (n_keys > first ? n_keys - first : 0) * shape.d_head;
    if (n_valid >= n) {
        // A head of a page is a multiple of 16 bytes: 32 positions of an even width.
        constexpr int N = 16 / sizeof(T);
        for (uint32_t i = threadIdx.x * N; i < n; i += blockDim.x * N) {
            store_pack<T, N>(to + i, load_pack<T, N>(from + i));
        }
    } else {
        for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
            to[i] = i < n_valid ? from[i] : from_float<T>(0.0f);
        }
    }
}

// Copies the outputs of some heads, x (heads, n, d_head), to their columns of rows y (n, n_heads d_head).
// Grid: x rows, y heads.
template <class T>
__device__ void interleave_heads(const T *x, T *y, uint32_t n, uint32_t first_head, uint32_t n_heads, uint32_t d_head) {
    uint32_t row = blockIdx.x, head = blockIdx.y;
    const T *from = x + ((size_t)head * n + row) * d_head;
    T *to = y + ((size_t)row * n_heads + first_head + head) * d_head;
    for (uint32_t i = threadIdx.x; i < d_head; i += blockDim.x) {
        to[i] = from[i];
    }
}

#define PAGES_KERNELS(T, NAME)                                                                                         \
    extern "C" __global__ void rope_store_1_##NAME(const T *qkv, const float *cos, const float *sin,                 \
                                                     const RowInfo *rows, const uint64_t *tables,            \
                                                     T *queries, uint32_t n_heads, uint32_t n_kv_heads,                \
                                                     uint32_t d_head, uint32_t layer, float scale) {                   \
        rope_store<T, 1>(qkv, cos, sin, rows, tables, queries, {n_heads, n_kv_heads, d_head, layer}, scale);           \
    }                                                                                                                  \
    extern "C" __global__ void rope_store_4_##NAME(const T *qkv, const float *cos, const float *sin,                 \
                                                     const RowInfo *rows, const uint64_t *tables,            \
                                                     T *queries, uint32_t n_heads, uint32_t n_kv_heads,                \
                                                     uint32_t d_head, uint32_t layer, float scale) {                   \
        rope_store<T, 4>(qkv, cos, sin, rows, tables, queries, {n_heads, n_kv_heads, d_head, layer}, scale);           \
    }                                                                                                                  \
    extern "C" __global__ void gather_pages_##NAME(const uint64_t *table, T *keys, T *values,                \
                                                   uint32_t n_keys, uint32_t n_heads, uint32_t n_kv_heads,             \
                                                   uint32_t d_head, uint32_t layer) {                                  \
        gather_pages<T>(table, keys, values, n_keys, {n_heads, n_kv_heads, d_head, layer});                            \
    }                                                                                                                  \
    extern "C" __global__ void interleave_heads_##NAME(const T *x, T *y, uint32_t n, uint32_t first_head, uint32_t n_heads,  \
                                                 uint32_t d_head) {                                                    \
        interleave_heads<T>(x, y, n, first_head, n_heads, d_head);                                                           \
    }

FOR_EACH_ELEMENT(PAGES_KERNELS)
