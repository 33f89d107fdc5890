// Layout of key-value pages and of a step's rows; step_plan.rs writes the latter.
//
// A page is contiguous: (n_layers, 2, n_kv_heads, PAGE_LEN, d_head), keys before values. A block table is a list of
// addresses of pages.
#pragma once

#include "elements.cuh"

// N consecutive elements, accessed at most 16 bytes at a time.
template <class T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
    T e[N];
};

template <class T, int N> __device__ Pack<T, N> load_pack(const T *from) {
    return *reinterpret_cast<const Pack<T, N> *>(from);
}

template <class T, int N> __device__ void store_pack(T *to, const Pack<T, N> &pack) {
    *reinterpret_cast<Pack<T, N> *>(to) = pack;
}

constexpr uint32_t PAGE_LEN = 32;

// Row of the step: a new position of one sequence.
struct RowInfo {
    uint32_t table;     // index of its sequence's first page in the block tables
    uint32_t position;  // position in the sequence
    uint32_t first_row; // first row of its chunk
    uint32_t n;         // rows of its chunk
};

// Geometry of the store, and the layer of the launch.
struct PageShape {
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t d_head;
    uint32_t layer;
};

// Returns the keys (part 0) or values (part 1) of a head in a page: (PAGE_LEN, d_head).
template <class T>
__device__ inline T *page_head(uint64_t page, const PageShape &shape, uint32_t part, uint32_t head) {
    size_t block = (size_t)(shape.layer * 2 + part) * shape.n_kv_heads + head;
    return reinterpret_cast<T *>(page) + block * PAGE_LEN * shape.d_head;
}

// Returns the index of a row's query of one head. The queries of a chunk are stored head by head, (n_heads, n, d_head),
// so that the rows of all heads that share a key-value head are one matrix.
__device__ inline size_t query_at(const RowInfo &info, uint32_t row, uint32_t head, const PageShape &shape) {
    return ((size_t)info.first_row * shape.n_heads + (size_t)head * info.n + (row - info.first_row)) * shape.d_head;
}
