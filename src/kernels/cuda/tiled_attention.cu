// Tiled attention on tensor cores, in f16 and bf16: scores stay in registers (flash attention 2, arXiv 2307.08691;
// online softmax, arXiv 1805.02867).
//
// A block of four warps computes 128 queries of a head, 32 per warp, over tiles of 64 keys. The keys and values that a
// warp loads from shared memory serve two products of 16 queries each: with one product, loads would take longer than
// arithmetic. The keys of the next tile are copied while the weights of this tile are computed, its values while its
// scores are computed. Scores, softmax and sums are in f32; weights are rounded to the element type before the product
// with the values.
//
// Shapes: q and y (B, n_heads, S, d), k and v (B, n_heads / group, n_keys, d), each at three strides in elements
// that are multiples of 8. Keys 0 .. first + step i, at most n_keys, are visible to query i. WIDTH is d rounded up to a
// multiple of 16. Grid (query tiles, n_heads, B), block 128. Shared memory: 256 rows of WIDTH + 8 elements.
#include "mma.cuh"

// PARTS: products of 16 queries that share the loaded keys and values.
constexpr int PARTS = 2, TILE_KEYS = 64, TILE_WARPS = 4, TILE_THREADS = TILE_WARPS * WARP;
constexpr int TILE_QUERIES = TILE_WARPS * PARTS * 16;

#ifndef NO_TENSOR_CORES

// Strides of a tensor's heads, in elements.
struct Strides {
    uint32_t batch, head, row;

    __device__ size_t at(uint32_t b, uint32_t h) const { return size_t(b) * batch + size_t(h) * head; }
};

struct Attention {
    uint32_t n_queries, n_keys, d, group, first, step;
    float scale;
};

// Rows of queries, keys or values. 8 elements of padding avoid bank conflicts of a warp's loads.
template <class T, int WIDTH, int ROWS> struct alignas(16) Tile {
    T rows[ROWS][WIDTH + 8];
};
template <class T, int WIDTH> using KeyTile = Tile<T, WIDTH, TILE_KEYS>;

template <class T, int WIDTH> struct Tiles {
    Tile<T, WIDTH, TILE_QUERIES> queries;
    KeyTile<T, WIDTH> keys, values;
};

// Begins the copy of the rows from `first` on; rows from n_rows on, and elements from d on, are set to 0.
template <class T, int WIDTH, int ROWS>
__device__ void begin_tile(Tile<T, WIDTH, ROWS> &tile, const T *from, uint32_t distance, uint32_t first,
                           uint32_t n_rows, uint32_t d) {
    constexpr int ACCESSES = WIDTH / 8;
    for (int i = threadIdx.x; i < ROWS * ACCESSES; i += TILE_THREADS) {
        const uint32_t row = i / ACCESSES, column = i % ACCESSES * 8;
        const bool inside = first + row < n_rows && column < d;
        const T *source = inside ? from + size_t(first + row) * distance + column : from;
        begin_copy(&tile.rows[row][column], source, inside ? 16 : 0);
    }
    end_group();
}

// Computes the scores of a warp's queries with a tile of keys: element e of part j is that of row line + 8 (e / 2) and
// key 8 j + pair + e % 2, for each 16 queries.
template <class T, int WIDTH>
__device__ void multiply_keys(float (&scores)[PARTS][TILE_KEYS / 8][4], const Tile<T, WIDTH, TILE_QUERIES> &queries,
                              const KeyTile<T, WIDTH> &keys) {
    const int lane = threadIdx.x % WARP, first = threadIdx.x / WARP * PARTS * 16;
#pragma unroll
    for (int p = 0; p < PARTS; ++p)
#pragma unroll
        for (int j = 0; j < TILE_KEYS / 8; ++j)
            for (int e = 0; e < 4; ++e) scores[p][j][e] = 0.0f;
#pragma unroll
    for (int s = 0; s < WIDTH / 16; ++s) {
        uint32_t q[PARTS][4];
#pragma unroll
        for (int p = 0; p < PARTS; ++p)
            load_matrices(q[p], &queries.rows[first + 16 * p + lane % 16][16 * s + lane / 16 * 8]);
#pragma unroll
        for (int j = 0; j < TILE_KEYS / 16; ++j) {
            uint32_t m[4]; // two keys' parts, two halves of the step each
            load_matrices(m, &keys.rows[16 * j + lane / 16 * 8 + lane % 8][16 * s + lane / 8 % 2 * 8]);
#pragma unroll
            for (int p = 0; p < PARTS; ++p) {
                multiply(scores[p][2 * j], q[p], {m[0], m[1]}, T());
                multiply(scores[p][2 * j + 1], q[p], {m[2], m[3]}, T());
            }
        }
    }
}

// Adds the weighted values: element e of part j is that of row line + 8 (e / 2) and column 8 j + pair + e % 2, for each
// 16 queries.
template <class T, int WIDTH>
__device__ void multiply_values(float (&sums)[PARTS][WIDTH / 8][4], const float (&weights)[PARTS][TILE_KEYS / 8][4],
                                const KeyTile<T, WIDTH> &values) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int s = 0; s < TILE_KEYS / 16; ++s) {
        uint32_t w[PARTS][4];
#pragma unroll
        for (int p = 0; p < PARTS; ++p) {
            // The layout of a product's results is that of the next product's inputs.
            const float(&low)[4] = weights[p][2 * s], (&high)[4] = weights[p][2 * s + 1];
            w[p][0] = pack<T>(low[0], low[1]);
            w[p][1] = pack<T>(low[2], low[3]);
            w[p][2] = pack<T>(high[0], high[1]);
            w[p][3] = pack<T>(high[2], high[3]);
        }
#pragma unroll
        for (int j = 0; j < WIDTH / 16; ++j) {
            uint32_t m[4]; // two columns' parts, two halves of the step each
            load_matrices_transposed(m, &values.rows[16 * s + lane / 8 % 2 * 8 + lane % 8][16 * j + lane / 16 * 8]);
#pragma unroll
            for (int p = 0; p < PARTS; ++p) {
                multiply(sums[p][2 * j], w[p], {m[0], m[1]}, T());
                multiply(sums[p][2 * j + 1], w[p], {m[2], m[3]}, T());
            }
        }
    }
}

// Masks the keys that are not visible to a query.
__device__ inline void mask(float (&scores)[TILE_KEYS / 8][4], uint32_t first_query, uint32_t first_key,
                            const Attention &a) {
    const uint32_t line = threadIdx.x % WARP / 4, pair = threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < TILE_KEYS / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const uint32_t query = first_query + line + 8 * (e / 2), key = first_key + 8 * j + pair + e % 2;
            if (key >= min(a.n_keys, a.first + a.step * query)) scores[j][e] = -INFINITY;
        }
}

// Online softmax of the two rows of a thread, in powers of two.
struct Running {
    float largest[2], sum[2];

    // Replaces scores by weights, relative to the maximum score so far; returns the factors of the earlier sums.
    __device__ void take(float (&scores)[TILE_KEYS / 8][4], float scale, float (&factors)[2]) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float now = largest[r];
#pragma unroll
            for (int j = 0; j < TILE_KEYS / 8; ++j) now = fmaxf(now, fmaxf(scores[j][2 * r], scores[j][2 * r + 1]));
            now = largest_of_row(now);
            const float base = now == -INFINITY ? 0.0f : now * scale;
            factors[r] = exp2f(largest[r] * scale - base);
            largest[r] = now;
            float added = 0.0f;
#pragma unroll
            for (int j = 0; j < TILE_KEYS / 8; ++j)
#pragma unroll
                for (int e = 2 * r; e < 2 * r + 2; ++e) {
                    scores[j][e] = exp2f(scores[j][e] * scale - base);
                    added += scores[j][e];
                }
            sum[r] = sum[r] * factors[r] + added;
        }
    }
};

template <class T, int WIDTH>
__device__ void tiled_attention(T *y, const T *q, const T *k, const T *v, const Attention &a, Strides of_y, Strides of_q,
                                Strides of_k) {
    using Memory = Tiles<T, WIDTH>;
    DYNAMIC_SHARED(Memory, tiles);
    const uint32_t warp = threadIdx.x / WARP, line = threadIdx.x % WARP / 4, pair = threadIdx.x % 4 * 2;
    const uint32_t head = blockIdx.y, sequence = blockIdx.z;
    // The last queries, with the most visible keys, are scheduled first.
    const uint32_t tile_query = (gridDim.x - 1 - blockIdx.x) * TILE_QUERIES;
    const uint32_t first_query = tile_query + warp * PARTS * 16;
    q += of_q.at(sequence, head);
    y += of_y.at(sequence, head);
    k += of_k.at(sequence, head / a.group);
    v += of_k.at(sequence, head / a.group);
    const uint32_t last_query = min(tile_query + TILE_QUERIES, a.n_queries) - 1;
    const uint32_t n_seen = min(a.n_keys, a.first + a.step * last_query);

    begin_tile(tiles->queries, q, of_q.row, tile_query, a.n_queries, a.d);
    begin_tile(tiles->keys, k, of_k.row, 0, a.n_keys, a.d);
    float sums[PARTS][WIDTH / 8][4] = {};
    Running running[PARTS];
    for (int p = 0; p < PARTS; ++p) running[p] = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
    const float scale = a.scale * 1.4426950409f; // e^x = 2^(x log2(e))

    for (uint32_t first_key = 0; first_key < n_seen; first_key += TILE_KEYS) {
        wait_for_groups<0>();
        __syncthreads(); // the keys have arrived, and the values of the last tile have been read
        begin_tile(tiles->values, v, of_k.row, first_key, a.n_keys, a.d);
        float scores[PARTS][TILE_KEYS / 8][4];
        multiply_keys(scores, tiles->queries, tiles->keys);
        __syncthreads(); // the keys have been read
        begin_tile(tiles->keys, k, of_k.row, first_key + TILE_KEYS, a.n_keys, a.d);
#pragma unroll
        for (int p = 0; p < PARTS; ++p) {
            const uint32_t first = first_query + 16 * p;
            // The first query has the fewest visible keys.
            if (first_key + TILE_KEYS > min(a.n_keys, a.first + a.step * first)) mask(scores[p], first, first_key, a);
            float factors[2];
            running[p].take(scores[p], scale, factors);
#pragma unroll
            for (int j = 0; j < WIDTH / 8; ++j)
                for (int e = 0; e < 4; ++e) sums[p][j][e] *= factors[e / 2];
        }
        wait_for_groups<1>();
        __syncthreads(); // the values have arrived
        multiply_values(sums, scores, tiles->values);
    }
    wait_for_groups<0>();

#pragma unroll
    for (int p = 0; p < PARTS; ++p)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float sum = sum_of_row(running[p].sum[r]);
            const float share = sum == 0.0f ? 0.0f : 1.0f / sum;
            const uint32_t query = first_query + 16 * p + line + 8 * r;
            if (query >= a.n_queries) continue;
            for (int j = 0; j < WIDTH / 8; ++j)
                if (8 * j + pair < a.d)
                    *reinterpret_cast<uint32_t *>(y + size_t(query) * of_y.row + 8 * j + pair) =
                        pack<T>(sums[p][j][2 * r] * share, sums[p][j][2 * r + 1] * share);
        }
}

#endif

#define INSTANTIATE(T, WIDTH, suffix) \
    extern "C" __global__ void __launch_bounds__(TILE_THREADS, WIDTH <= 64 ? 3 : 2) tiled_attention_##WIDTH##_##suffix( \
        T *y, const T *q, const T *k, const T *v, uint32_t n_queries, uint32_t n_keys, uint32_t d, uint32_t group, \
        uint32_t first, uint32_t step, uint32_t y_batch, uint32_t y_head, uint32_t y_row, uint32_t q_batch, \
        uint32_t q_head, uint32_t q_row, uint32_t k_batch, uint32_t k_head, uint32_t k_row, float scale) { \
        RUN(tiled_attention<T, WIDTH>(y, q, k, v, {n_queries, n_keys, d, group, first, step, scale}, \
                                      {y_batch, y_head, y_row}, {q_batch, q_head, q_row}, {k_batch, k_head, k_row});) \
    }
#define INSTANTIATE_WIDTHS(T, suffix) \
    INSTANTIATE(T, 64, suffix) \
    INSTANTIATE(T, 80, suffix) \
    INSTANTIATE(T, 96, suffix) \
    INSTANTIATE(T, 128, suffix)
INSTANTIATE_WIDTHS(__half, f16)
INSTANTIATE_WIDTHS(__nv_bfloat16, bf16)
