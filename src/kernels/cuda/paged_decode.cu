// Paged attention of few queries: decoding, and short chunks of prompts.
//
// The work of a step is a list of tasks: a range of keys of one block table, and the rows that attend to it. Rows that
// share pages are in one task, with all query heads of a key-value head: each key is read once for all of them. A long
// range is split into several tasks (flash decoding, arXiv 2311.01282), and paged_join joins the results of a row.
// Sums in f32, online softmax (arXiv 1805.02867).

#include "paged_tasks.cuh"

// Online softmax of one query: maximum score, sum of weights, and weighted sum of the lane's elements.
template <int N> struct Running {
    float most;
    float sum;
    float values[N];

    // Merges the state of another thread for the same query and elements.
    __device__ void add(const Running<N> &other) {
        float both = fmaxf(most, other.most);
        float own = weight(most, both), others = weight(other.most, both);
        sum = sum * own + other.sum * others;
        for (int i = 0; i < N; i++) {
            values[i] = values[i] * own + other.values[i] * others;
        }
        most = both;
    }
};

// `lanes` threads share a key, each with CHUNKS chunks of VEC consecutive elements, `lanes` chunks apart. The 128 /
// lanes groups of threads take keys round-robin, U at a time; QT is the number of queries of a block.
//
// partials (n_slots, n_heads, d_head) and their (most, sum) are not divided by the sum; y (n_rows, n_heads d_head) is.
// Grid: x tasks, y key-value heads times tiles of QT queries. Shared memory: WARPS QT (CHUNKS VEC lanes + 2) floats.
template <class T, int VEC, int CHUNKS, int QT>
__device__ void paged_decode(const T *queries, const RowInfo *rows, const uint64_t *tables,
                             const DecodeTask *tasks, T *y, float *partials, float *partial_sums, PageShape shape,
                             uint32_t lanes, float *shared) {
    constexpr int N = CHUNKS * VEC;
    constexpr int U = CHUNKS > 1 ? 1 : QT > 4 ? 2 : 4;
    const DecodeTask &task = tasks[blockIdx.x];
    uint32_t group = shape.n_heads / shape.n_kv_heads, d = shape.d_head;
    uint32_t kv_head = blockIdx.y % shape.n_kv_heads, first_query = blockIdx.y / shape.n_kv_heads * QT;
    if (first_query >= task.n_rows * group) {
        return;
    }
    uint32_t n_queries = min(task.n_rows * group - first_query, (uint32_t)QT);
    uint32_t lane = threadIdx.x % lanes, key_group = threadIdx.x / lanes, n_groups = THREADS / lanes;

    float q[QT][N];
    Running<N> running[QT];
#pragma unroll
    for (int j = 0; j < QT; j++) {
        running[j].most = -INFINITY;
        running[j].sum = 0.0f;
        uint32_t query = first_query + j;
        bool is_query = j < (int)n_queries;
        uint32_t row = is_query ? task.rows[query / group] : 0;
        const T *from = queries + (is_query ? query_at(rows[row], row, kv_head * group + query % group, shape) : 0);
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            uint32_t at = (c * lanes + lane) * VEC;
            Pack<T, VEC> pack;
            if (is_query && at < d) {
                pack = load_pack<T, VEC>(from + at);
            }
#pragma unroll
            for (int i = 0; i < VEC; i++) {
                q[j][c * VEC + i] = is_query && at < d ? to_float(pack.e[i]) : 0.0f;
                running[j].values[c * VEC + i] = 0.0f;
            }
        }
    }

    // The bound is uniform over threads: each participates in every shuffle.
    for (uint32_t base = task.first; base < task.end; base += n_groups * U) {
        Pack<T, VEC> keys[U][CHUNKS], values[U][CHUNKS];
        bool is_key[U];
#pragma unroll
        for (int u = 0; u < U; u++) {
            uint32_t position = base + u * n_groups + key_group;
            is_key[u] = position < task.end;
            uint32_t seen = is_key[u] ? position : task.first;
            uint64_t page = tables[task.table + seen / PAGE_LEN];
            size_t in_page = (size_t)(seen % PAGE_LEN) * d;
            const T *key = page_head<T>(page, shape, 0, kv_head) + in_page;
            const T *value = page_head<T>(page, shape, 1, kv_head) + in_page;
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) {
                uint32_t at = (c * lanes + lane) * VEC;
                if (is_key[u] && at < d) {
                    keys[u][c] = load_pack<T, VEC>(key + at);
                    values[u][c] = load_pack<T, VEC>(value + at);
                } else {
#pragma unroll
                    for (int i = 0; i < VEC; i++) {
                        keys[u][c].e[i] = from_float<T>(0.0f);
                        values[u][c].e[i] = from_float<T>(0.0f);
                    }
                }
            }
        }
#pragma unroll
        for (int j = 0; j < QT; j++) {
            if (j < (int)n_queries) {
                float score[U];
                float most = running[j].most;
#pragma unroll
                for (int u = 0; u < U; u++) {
                    float sum = 0.0f;
#pragma unroll
                    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
                        for (int i = 0; i < VEC; i++) {
                            sum += q[j][c * VEC + i] * to_float(keys[u][c].e[i]);
                        }
                    }
                    for (uint32_t offset = lanes / 2; offset > 0; offset /= 2) {
                        sum += __shfl_xor_sync(ALL_LANES, sum, offset);
                    }
                    score[u] = is_key[u] ? sum : -INFINITY;
                    most = fmaxf(most, score[u]);
                }
                float kept = weight(running[j].most, most);
                running[j].most = most;
                running[j].sum *= kept;
#pragma unroll
                for (int i = 0; i < N; i++) {
                    running[j].values[i] *= kept;
                }
#pragma unroll
                for (int u = 0; u < U; u++) {
                    float p = weight(score[u], most);
                    running[j].sum += p;
#pragma unroll
                    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
                        for (int i = 0; i < VEC; i++) {
                            running[j].values[c * VEC + i] += p * to_float(values[u][c].e[i]);
                        }
                    }
                }
            }
        }
    }

    // Reduction over the groups of a warp, then over warps.
    uint32_t warp = threadIdx.x / WARP, n_shared = N * lanes;
    float *warp_sums = shared + WARPS * QT * n_shared;
#pragma unroll
    for (int j = 0; j < QT; j++) {
        for (uint32_t offset = lanes; offset < WARP; offset *= 2) {
            Running<N> other;
            other.most = __shfl_xor_sync(ALL_LANES, running[j].most, offset);
            other.sum = __shfl_xor_sync(ALL_LANES, running[j].sum, offset);
#pragma unroll
            for (int i = 0; i < N; i++) {
                other.values[i] = __shfl_xor_sync(ALL_LANES, running[j].values[i], offset);
            }
            running[j].add(other);
        }
        if (threadIdx.x % WARP < lanes) {
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
                for (int i = 0; i < VEC; i++) {
                    uint32_t at = (c * lanes + lane) * VEC + i;
                    shared[(warp * QT + j) * n_shared + at] = running[j].values[c * VEC + i];
                }
            }
            if (lane == 0) {
                warp_sums[(warp * QT + j) * 2] = running[j].most;
                warp_sums[(warp * QT + j) * 2 + 1] = running[j].sum;
            }
        }
    }
    __syncthreads();
    write_results<T, QT>(shared, warp_sums, n_shared, {&task, first_query, n_queries, kv_head, group}, shape, y, partials,
                         partial_sums);
}

// Joins the partial results of rows. Grid: x rows to join, y heads.
template <class T>
__device__ void paged_join(const float *partials, const float *partial_sums, const JoinRow *joins, T *y,
                           uint32_t n_heads, uint32_t d_head) {
    JoinRow join = joins[blockIdx.x];
    if (join.n == 0) {
        return;
    }
    uint32_t head = blockIdx.y;
    float most = -INFINITY, sum = 0.0f;
    for (uint32_t s = 0; s < join.n; s++) {
        most = fmaxf(most, partial_sums[((size_t)(join.first_slot + s) * n_heads + head) * 2]);
    }
    for (uint32_t s = 0; s < join.n; s++) {
        const float *of = partial_sums + ((size_t)(join.first_slot + s) * n_heads + head) * 2;
        sum += weight(of[0], most) * of[1];
    }
    for (uint32_t i = threadIdx.x; i < d_head; i += blockDim.x) {
        float value = 0.0f;
        for (uint32_t s = 0; s < join.n; s++) {
            size_t at = (size_t)(join.first_slot + s) * n_heads + head;
            value += weight(partial_sums[at * 2], most) * partials[at * d_head + i];
        }
        y[((size_t)join.row * n_heads + head) * d_head + i] = from_float<T>(value / sum);
    }
}

#define DECODE_KERNEL(T, NAME, VEC, CHUNKS, QT)                                                                        \
    extern "C" __global__ void __launch_bounds__(128) paged_decode_##VEC##_##CHUNKS##_##QT##_##NAME(                   \
        const T *queries, const RowInfo *rows, const uint64_t *tables, const DecodeTask *tasks, T *y,        \
        float *partials, float *partial_sums, uint32_t n_heads, uint32_t n_kv_heads, uint32_t d_head, uint32_t layer,  \
        uint32_t lanes) {                                                                                              \
        DYNAMIC_SHARED(float, shared);                                                                                         \
        paged_decode<T, VEC, CHUNKS, QT>(queries, rows, tables, tasks, y, partials, partial_sums,                      \
                                         {n_heads, n_kv_heads, d_head, layer}, lanes, shared);                         \
    }

#define DECODE_KERNELS(T, NAME)                                                                                        \
    DECODE_KERNEL(T, NAME, 8, 1, 1)                                                                                    \
    DECODE_KERNEL(T, NAME, 8, 1, 2)                                                                                    \
    DECODE_KERNEL(T, NAME, 8, 1, 4)                                                                                    \
    DECODE_KERNEL(T, NAME, 8, 1, 8)                                                                                    \
    DECODE_KERNEL(T, NAME, 8, 4, 1)                                                                                    \
    DECODE_KERNEL(T, NAME, 2, 1, 2)                                                                                    \
    DECODE_KERNEL(T, NAME, 2, 8, 1)                                                                                    \
    extern "C" __global__ void paged_join_##NAME(const float *partials, const float *partial_sums,                     \
                                                 const JoinRow *joins, T *y, uint32_t n_heads, uint32_t d_head) {      \
        paged_join<T>(partials, partial_sums, joins, y, n_heads, d_head);                                              \
    }

FOR_EACH_ELEMENT(DECODE_KERNELS)
