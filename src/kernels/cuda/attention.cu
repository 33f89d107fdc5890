// Split of rows of queries, keys and values into heads, and join of heads into rows, around the GEMMs of attention.
//
// Shapes: rows (B, S, n d) at any stride; queries (B, n, S, d); keys and values (B, n, padded, d), whose
// rows beyond S are 0, so that rows of scores are whole 16-byte accesses. Grid (padded, B): one block per position.
#include "elements.cuh"

// Writes a row of n heads of d elements to one position of each head: heads are `distance` elements apart.
template <class T>
__device__ void scatter_heads(T *heads, const T *row, uint32_t width, uint32_t d, size_t distance, float factor,
                              bool zero) {
    const bool aligned = is_aligned(heads, row) && d % Lanes<T>::value == 0;
    for_row<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float v[N] = {};
        if (!zero) load<N>(row + i, v);
        for (int k = 0; k < N; ++k) v[k] *= factor;
        store<N>(heads + i / d * distance + i % d, v);
    });
}

template <class T>
__device__ void split_heads(T *queries, T *keys, T *values, const T *q, const T *k, const T *v, uint32_t n_positions,
                            uint32_t width, uint32_t d, uint32_t q_distance, uint32_t k_distance, uint32_t v_distance,
                            float factor) {
    const size_t n_heads = width / d, padded = gridDim.x, position = blockIdx.x, sequence = blockIdx.y;
    const size_t row = sequence * n_positions + position, head = sequence * n_heads;
    const bool inside = position < n_positions;
    // Padding rows are not read: they use the address of the first row.
    const size_t from = inside ? row : 0;
    if (inside)
        scatter_heads(queries + (head * n_positions + position) * d, q + from * q_distance, width, d,
                      size_t(n_positions) * d, factor, false);
    scatter_heads(keys + (head * padded + position) * d, k + from * k_distance, width, d, padded * d, 1.0f, !inside);
    scatter_heads(values + (head * padded + position) * d, v + from * v_distance, width, d, padded * d, 1.0f, !inside);
}

// heads (B, n, S, d) to rows (B, S, n d); grid (S, B).
template <class T> __device__ void join_heads(T *rows, const T *heads, uint32_t width, uint32_t d) {
    const size_t n_heads = width / d, n_positions = gridDim.x, position = blockIdx.x, sequence = blockIdx.y;
    heads += (sequence * n_heads * n_positions + position) * d;
    rows += (sequence * n_positions + position) * width;
    const bool aligned = is_aligned(heads, rows) && d % Lanes<T>::value == 0;
    for_row<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float v[N];
        load<N>(heads + i / d * n_positions * d + i % d, v);
        store<N>(rows + i, v);
    });
}

#define INSTANTIATE(T, suffix) \
    extern "C" __global__ void __launch_bounds__(1024) \
        split_heads_##suffix(T *queries, T *keys, T *values, const T *q, const T *k, const T *v, \
                             uint32_t n_positions, uint32_t width, uint32_t d, uint32_t q_distance, \
                             uint32_t k_distance, uint32_t v_distance, float factor) { \
        split_heads(queries, keys, values, q, k, v, n_positions, width, d, q_distance, k_distance, v_distance, \
                    factor); \
    } \
    extern "C" __global__ void __launch_bounds__(1024) \
        join_heads_##suffix(T *rows, const T *heads, uint32_t width, uint32_t d) { \
        join_heads(rows, heads, width, d); \
    }
FOR_EACH_ELEMENT(INSTANTIATE)
