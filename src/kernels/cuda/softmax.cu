// Masked softmax of attention scores, in place: one block per row, computed in f32, without a mask in memory.
//
// Shapes: scores (B, n_heads, S, width), width >= n_keys; grid (B n_heads S). Row r is query r % S of sequence r /
// rows_per_sequence. Its visible keys are 0 .. first + step (r % S): causal attention for step = 1 and first =
// start + 1, full attention for step = 0; or, with spans (B S, 4), two ranges of keys. The weights of all other
// elements are exactly 0, also in a row without visible keys. A row is NaN where all visible scores are minus infinity,
// or one is NaN. Rows of whole 16-byte accesses are read once and kept in registers.
#include "reduce.cuh"

struct Keys {
    uint32_t first_begin, first_end, second_begin, second_end;

    __device__ bool sees(uint32_t key) const {
        return (key >= first_begin && key < first_end) || (key >= second_begin && key < second_end);
    }
    __device__ bool empty() const { return first_begin >= first_end && second_begin >= second_end; }
    __device__ uint32_t end() const { return max(first_end, second_end); }
};

// Softmax of a row in the registers of a block: CHUNKS accesses per thread.
template <int CHUNKS, class T>
__device__ void softmax_in_registers(T *row, uint32_t width, const Keys &keys, float scale) {
    constexpr int N = Lanes<T>::value;
    float v[CHUNKS][N];
    float largest = -INFINITY;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        const uint32_t i = (chunk * blockDim.x + threadIdx.x) * N;
        const bool inside = i < keys.end() && i < width;
        if (inside) load<N>(row + i, v[chunk]);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            if (!inside || !keys.sees(i + k)) v[chunk][k] = -INFINITY;
            largest = Maximum::of(largest, v[chunk][k]);
        }
    }
    largest = reduce_block<Maximum>(largest);
    const bool empty = keys.empty();
    float sum = 0.0f;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk)
#pragma unroll
        for (int k = 0; k < N; ++k) {
            v[chunk][k] = empty ? 0.0f : expf((v[chunk][k] - largest) * scale);
            sum += v[chunk][k];
        }
    sum = reduce_block<Sum>(sum);
    const float share = empty ? 0.0f : 1.0f / sum;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        const uint32_t i = (chunk * blockDim.x + threadIdx.x) * N;
#pragma unroll
        for (int k = 0; k < N; ++k) v[chunk][k] *= share;
        if (i < width) store<N>(row + i, v[chunk]);
    }
}

// Softmax of a row of any length, which is read three times.
template <class T> __device__ void softmax_in_memory(T *row, uint32_t width, const Keys &keys, float scale) {
    const bool aligned = is_aligned(row);
    float largest = -INFINITY;
    for_row<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float v[N];
        load<N>(row + i, v);
        for (int k = 0; k < N; ++k)
            if (keys.sees(i + k)) largest = Maximum::of(largest, v[k]);
    });
    largest = reduce_block<Maximum>(largest);
    const bool empty = keys.empty();
    auto weight = [&](uint32_t key, float score) {
        return empty || !keys.sees(key) ? 0.0f : expf((score - largest) * scale);
    };
    float sum = 0.0f;
    for_row<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float v[N];
        load<N>(row + i, v);
        for (int k = 0; k < N; ++k) sum += weight(i + k, v[k]);
    });
    sum = reduce_block<Sum>(sum);
    const float share = empty ? 0.0f : 1.0f / sum;
    for_row<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float v[N];
        load<N>(row + i, v);
        for (int k = 0; k < N; ++k) v[k] = weight(i + k, v[k]) * share;
        store<N>(row + i, v);
    });
}

template <class T>
__device__ void masked_softmax(T *scores, const uint32_t *spans, uint32_t n_queries, uint32_t rows_per_sequence,
                               uint32_t width, uint32_t n_keys, uint32_t first, uint32_t step, float scale) {
    constexpr int N = Lanes<T>::value;
    const uint32_t query = blockIdx.x % n_queries;
    Keys keys = {0, min(n_keys, first + step * query), 0, 0};
    if (spans != nullptr) {
        spans += (size_t(blockIdx.x / rows_per_sequence) * n_queries + query) * 4;
        keys = {spans[0], min(n_keys, spans[1]), spans[2], min(n_keys, spans[3])};
    }
    T *row = scores + size_t(blockIdx.x) * width;
    const uint32_t chunks = (width + blockDim.x * N - 1) / (blockDim.x * N);
    if (!is_aligned(scores) || width % N != 0 || chunks > 4) {
        softmax_in_memory(row, width, keys, scale);
    } else if (chunks == 1) {
        softmax_in_registers<1>(row, width, keys, scale);
    } else if (chunks == 2) {
        softmax_in_registers<2>(row, width, keys, scale);
    } else {
        softmax_in_registers<4>(row, width, keys, scale);
    }
}

#define INSTANTIATE(T, suffix) \
    extern "C" __global__ void __launch_bounds__(1024) \
        masked_softmax_##suffix(T *scores, const uint32_t *spans, uint32_t n_queries, uint32_t rows_per_sequence, \
                                uint32_t width, uint32_t n_keys, uint32_t first, uint32_t step, float scale) { \
        masked_softmax(scores, spans, n_queries, rows_per_sequence, width, n_keys, first, step, scale); \
    }
FOR_EACH_ELEMENT(INSTANTIATE)
