// The instructions of mma.cuh on the CPU, from the layouts that the PTX manual draws. Copies are as late as the hardware
// may be: bytes arrive only when they are waited for, and until then their place holds NaN.
#pragma once

#include "cuda_on_host.h"

namespace on_host {

// Words that lanes of a warp show each other.
constexpr unsigned SHOWN = 8;
inline thread_local std::vector<uint32_t> shown[2];

// Shows some words to the warp and returns those of its first lane; lane l's are SHOWN l further on.
inline const uint32_t *show(const uint32_t *own, unsigned n) {
    Block &block = *on_host::block;
    const unsigned thread = block.current;
    // The parity of exchanges chooses the buffer, as it does for shuffles.
    std::vector<uint32_t> &words = shown[block.fibers[thread].n_shuffles++ % 2];
    if (words.size() < 1024 * SHOWN) words.resize(1024 * SHOWN);
    std::copy(own, own + n, words.begin() + thread * SHOWN);
    wait(State::AtWarpBarrier);
    return words.data() + (thread - thread % WARP_SIZE) * SHOWN;
}

struct Copy {
    void *to;
    const void *from;
    uint32_t n;
};
// Copies of each thread: those that are begun, in groups, the latest of which is open.
inline thread_local std::vector<std::vector<Copy>> copies[1024];

inline float element(uint32_t word, unsigned which, __half) { return __half2float({uint16_t(word >> 16 * which)}); }
inline float element(uint32_t word, unsigned which, __nv_bfloat16) {
    return __bfloat162float({uint16_t(word >> 16 * which)});
}

inline void load_matrices(uint32_t (&to)[4], const void *row, bool transposed) {
    uint32_t address[2];
    std::memcpy(address, &row, sizeof row);
    const uint32_t *lanes = show(address, 2);
    const unsigned lane = block->current % WARP_SIZE;
    auto at = [&](unsigned matrix, unsigned row, unsigned column) {
        const uint16_t *from;
        std::memcpy(&from, lanes + (matrix * 8 + row) * SHOWN, sizeof from);
        return uint32_t(from[column]);
    };
    const unsigned line = lane / 4, pair = lane % 4 * 2;
    for (unsigned m = 0; m < 4; ++m)
        to[m] = transposed ? at(m, pair, line) | at(m, pair + 1, line) << 16 : at(m, line, pair) | at(m, line, pair + 1) << 16;
}

} // namespace on_host

template <class T> void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], T type) {
    const uint32_t own[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const uint32_t *lanes = on_host::show(own, 6);
    const unsigned lane = on_host_lane(), line = lane / 4, pair = lane % 4 * 2;
    // a: register r holds rows line + 8 (r % 2), columns pair + 8 (r / 2) and the next; b: register r rows pair + 8 r and the
    // next, column line; d: element e is in row line + 8 (e / 2), column pair + e % 2.
    for (unsigned e = 0; e < 4; ++e) {
        const unsigned row = line + 8 * (e / 2), column = pair + e % 2;
        for (unsigned k = 0; k < 16; ++k) {
            const uint32_t *from_a = lanes + (row % 8 * 4 + k % 8 / 2) * on_host::SHOWN;
            const uint32_t *from_b = lanes + (column * 4 + k % 8 / 2) * on_host::SHOWN;
            d[e] += on_host::element(from_a[row / 8 + 2 * (k / 8)], k % 2, type) *
                    on_host::element(from_b[4 + k / 8], k % 2, type);
        }
    }
}

inline void load_matrices(uint32_t (&to)[4], const void *row) { on_host::load_matrices(to, row, false); }
inline void load_matrices_transposed(uint32_t (&to)[4], const void *row) { on_host::load_matrices(to, row, true); }

inline void begin_copy(void *shared, const void *global, uint32_t n) {
    auto &groups = on_host::copies[on_host::block->current];
    if (groups.empty()) groups.emplace_back();
    groups.back().push_back({shared, global, n});
    std::memset(shared, 0xff, 16);
}
inline void end_group() {
    auto &groups = on_host::copies[on_host::block->current];
    if (groups.empty()) groups.emplace_back();
    groups.emplace_back();
}
template <int N> void wait_for_groups() {
    // The last group is the open one.
    auto &groups = on_host::copies[on_host::block->current];
    while (groups.size() > N + 1) {
        for (const on_host::Copy &copy : groups.front()) {
            std::memset(copy.to, 0, 16);
            std::memcpy(copy.to, copy.from, copy.n);
        }
        groups.erase(groups.begin());
    }
}
