// Operations on rows of tokens: gather by index, cosine similarity, grid pooling. One block per row of the result.
#include "reduce.cuh"

// y[r] = table[ids[r]]: embeddings. y (R, width), table (n_rows, width), ids (R); grid (R, blocks that share a row). An
// id out of range gives a row of NaN, so that the error is visible.
template <class T>
__device__ void gather(T *y, const T *table, const uint32_t *ids, uint32_t n_rows, uint32_t width) {
    const bool aligned = is_aligned(y, table);
    const uint32_t id = ids[blockIdx.x];
    const T *row = table + size_t(id < n_rows ? id : 0) * width;
    y += size_t(blockIdx.x) * width;
    for_row_of_blocks<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float v[N];
        load<N>(row + i, v);
        for (int k = 0; k < N; ++k) v[k] = id < n_rows ? v[k] : NAN;
        store<N>(y + i, v);
    });
}

// y[r] = cosine similarity of a[r] and b[r], in f32; both norms are at least 1e-8, PyTorch's epsilon. a and b (R,
// width); grid (R).
template <class T> __device__ void row_cosines(float *y, const T *a, const T *b, uint32_t width) {
    const bool aligned = is_aligned(a, b);
    a += size_t(blockIdx.x) * width;
    b += size_t(blockIdx.x) * width;
    float aa = 0.0f, bb = 0.0f, ab = 0.0f;
    for_row<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float v[N], w[N];
        load<N>(a + i, v);
        load<N>(b + i, w);
        for (int k = 0; k < N; ++k) {
            aa += v[k] * v[k];
            bb += w[k] * w[k];
            ab += v[k] * w[k];
        }
    });
    aa = reduce_block<Sum>(aa);
    bb = reduce_block<Sum>(bb);
    ab = reduce_block<Sum>(ab);
    if (threadIdx.x == 0) y[blockIdx.x] = ab / (fmaxf(sqrtf(aa), 1e-8f) * fmaxf(sqrtf(bb), 1e-8f));
}

enum PoolMode : uint32_t { AVERAGE = 0, MAX = 1, BILINEAR = 2 };

// Window of cells of an axis that are pooled to one cell, from `first` on.
struct PoolWindow {
    uint32_t first, count;
    float share; // interpolation weight of the second of two cells

    // Window of output i of n over m cells: floor(i m / n) .. ceil((i + 1) m / n) of PyTorch's adaptive pools, or the
    // cells around (i + 1/2) m / n - 1/2 of interpolate(mode="bilinear", align_corners=False).
    __device__ PoolWindow(uint32_t m, uint32_t n, uint32_t i, uint32_t mode) {
        if (mode == BILINEAR) {
            const double at = fmax((double(i) + 0.5) * double(m) / double(n) - 0.5, 0.0);
            first = uint32_t(at);
            share = float(at - double(first));
            count = first + 1 < m ? 2 : 1;
        } else {
            first = uint32_t(uint64_t(i) * m / n);
            count = uint32_t((uint64_t(i + 1) * m + n - 1) / n) - first;
            share = 0.0f;
        }
    }

    __device__ float weight(uint32_t cell, uint32_t mode) const {
        if (mode != BILINEAR) return 1.0f / float(count);
        // At the end of the axis both cells are the last one.
        return count == 1 ? 1.0f : cell == 0 ? 1.0f - share : share;
    }
};

// Pools the grid of each frame. x (t, from_h from_w, width), frames at a stride of `distance` elements; y (t, to_h
// to_w, width). Grid (to_h to_w, t).
template <class T>
__device__ void pool_grid(T *y, const T *x, uint32_t width, uint32_t from_h, uint32_t from_w, uint32_t to_h,
                          uint32_t to_w, uint32_t distance, uint32_t mode) {
    const bool aligned = is_aligned(y, x) && distance % Lanes<T>::value == 0;
    const PoolWindow rows(from_h, to_h, blockIdx.x / to_w, mode), columns(from_w, to_w, blockIdx.x % to_w, mode);
    x += size_t(blockIdx.y) * distance;
    y += (size_t(blockIdx.y) * gridDim.x + blockIdx.x) * width;
    for_row<T>(width, aligned, [&](uint32_t i, auto lanes) {
        constexpr int N = decltype(lanes)::value;
        float pooled[N];
        for (int k = 0; k < N; ++k) pooled[k] = mode == MAX ? -INFINITY : 0.0f;
        for (uint32_t row = 0; row < rows.count; ++row)
            for (uint32_t column = 0; column < columns.count; ++column) {
                const size_t token = size_t(rows.first + row) * from_w + columns.first + column;
                const float weight = rows.weight(row, mode) * columns.weight(column, mode);
                float v[N];
                load<N>(x + token * width + i, v);
                for (int k = 0; k < N; ++k)
                    pooled[k] = mode == MAX ? Maximum::of(pooled[k], v[k]) : pooled[k] + v[k] * weight;
            }
        store<N>(y + i, pooled);
    });
}

#define INSTANTIATE(T, suffix) \
    extern "C" __global__ void __launch_bounds__(1024) \
        gather_##suffix(T *y, const T *table, const uint32_t *ids, uint32_t n_rows, uint32_t width) { \
        gather(y, table, ids, n_rows, width); \
    } \
    extern "C" __global__ void __launch_bounds__(1024) \
        row_cosines_##suffix(float *y, const T *a, const T *b, uint32_t width) { \
        row_cosines(y, a, b, width); \
    } \
    extern "C" __global__ void __launch_bounds__(1024) \
        pool_grid_##suffix(T *y, const T *x, uint32_t width, uint32_t from_h, uint32_t from_w, uint32_t to_h, \
                           uint32_t to_w, uint32_t distance, uint32_t mode) { \
        pool_grid(y, x, width, from_h, from_w, to_h, to_w, distance, mode); \
    }
FOR_EACH_ELEMENT(INSTANTIATE)
