// Tasks of paged attention, and the output of results that their kernels share. The layout is that of step_plan.rs.
#pragma once

#include "pages.cuh"
#include "reduce.cuh"

constexpr uint32_t THREADS = 128;
constexpr uint32_t WARPS = THREADS / WARP;
constexpr uint32_t TASK_ROWS = 16;
constexpr uint32_t DIRECT = 0xffffffffu;

// Keys `first .. end` of a block table, all visible to `n_rows` rows; 0 rows for an empty task. `first` begins a page.
struct DecodeTask {
    uint32_t table;
    uint32_t first;
    uint32_t end;
    uint32_t n_rows;
    uint32_t rows[TASK_ROWS];
    uint32_t slots[TASK_ROWS]; // slot of each row's partial result; DIRECT for the only result of a row
};

// Row with `n` partial results in consecutive slots; 0 for an empty entry.
struct JoinRow {
    uint32_t row;
    uint32_t first_slot;
    uint32_t n;
};

// Queries of a task that a block computes: query i is that of row i / group and head i % group of the key-value head.
struct TaskQueries {
    const DecodeTask *task;
    uint32_t first;
    uint32_t n;
    uint32_t kv_head;
    uint32_t group;
};

// Returns exp(m - most), 0 for the maximum of an empty set. NaN propagates through products with the result.
__device__ inline float weight(float m, float most) { return m == -INFINITY ? 0.0f : expf(m - most); }

// Joins the sums of a block's warps, and writes each query's result, or its partial result without the final division.
// `sums` (WARPS, QT, width), `warp_sums` (WARPS, QT) of (largest score, sum of weights).
template <class T, int QT>
__device__ void write_results(const float *sums, const float *warp_sums, uint32_t width, const TaskQueries &queries,
                              const PageShape &shape, T *y, float *partials, float *partial_sums) {
    const uint32_t d = shape.d_head;
    for (uint32_t j = 0; j < queries.n; j++) {
        float most = -INFINITY, sum = 0.0f;
        for (uint32_t w = 0; w < WARPS; w++) {
            most = fmaxf(most, warp_sums[(w * QT + j) * 2]);
        }
        for (uint32_t w = 0; w < WARPS; w++) {
            sum += weight(warp_sums[(w * QT + j) * 2], most) * warp_sums[(w * QT + j) * 2 + 1];
        }
        uint32_t query = queries.first + j, head = queries.kv_head * queries.group + query % queries.group;
        uint32_t row = queries.task->rows[query / queries.group], slot = queries.task->slots[query / queries.group];
        for (uint32_t i = threadIdx.x; i < d; i += THREADS) {
            float value = 0.0f;
            for (uint32_t w = 0; w < WARPS; w++) {
                value += weight(warp_sums[(w * QT + j) * 2], most) * sums[(w * QT + j) * width + i];
            }
            if (slot == DIRECT) {
                y[((size_t)row * shape.n_heads + head) * d + i] = from_float<T>(value / sum);
            } else {
                partials[((size_t)slot * shape.n_heads + head) * d + i] = value;
            }
        }
        if (slot != DIRECT && threadIdx.x == 0) {
            partial_sums[((size_t)slot * shape.n_heads + head) * 2] = most;
            partial_sums[((size_t)slot * shape.n_heads + head) * 2 + 1] = sum;
        }
    }
}
