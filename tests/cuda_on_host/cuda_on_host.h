// CUDA C++ on the CPU: as much of it as this crate's kernels use, so that tests run them without a GPU and without nvcc.
//
// The threads of a block are fibers of one operating-system thread. A fiber runs until a barrier or a shuffle, where it
// waits for the others as the hardware does. Barriers are strict: a launch fails where a thread has ended that others
// wait for, which CUDA leaves undefined. Blocks run one after the other. Dynamic shared memory begins as NaN, so that
// an element which is read before it is written shows in the result.
#pragma once

// Jumps between fibers leave stacks, which glibc's checks take for errors.
#undef _FORTIFY_SOURCE

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <setjmp.h>
#include <sys/mman.h>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static thread_local
#define DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(on_host::block->shared.data())

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
using std::max;
using std::min;

// --- Threads, barriers and shuffles.

inline thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace on_host {

constexpr unsigned WARP_SIZE = 32;
constexpr size_t STACK = 128 * 1024;

enum class State { Ready, AtBlockBarrier, AtWarpBarrier, Ended };
enum Outcome { Done = 0, Stuck = 1, EndedEarly = 2, BadLaunch = 3 };

struct Fiber {
    // Where it begins.
    ucontext_t context;
    // Where it waits: jumps do without the system calls of a context's signal mask.
    jmp_buf waiting;
    bool began;
    State state;
    // Shuffles so far: its parity chooses the slots, so that the next shuffle does not overwrite this one's.
    unsigned n_shuffles;
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<uint64_t> slots[2];
    std::vector<unsigned char> shared;
    std::function<void()> kernel;
    jmp_buf scheduler;
    unsigned current;
};

inline thread_local Block *block = nullptr;

inline void wait(State state) {
    Fiber &fiber = block->fibers[block->current];
    fiber.state = state;
    if (_setjmp(fiber.waiting) == 0) _longjmp(block->scheduler, 1);
}

inline void run_fiber() {
    block->kernel();
    block->fibers[block->current].state = State::Ended;
    _longjmp(block->scheduler, 1);
}

// Runs a fiber until it waits or ends.
__attribute__((noinline)) inline void resume(Fiber &fiber) {
    if (_setjmp(block->scheduler) != 0) return;
    if (fiber.began) _longjmp(fiber.waiting, 1);
    fiber.began = true;
    setcontext(&fiber.context);
}

// Frees the fibers first .. last if each of them is at the barrier.
inline Outcome open(State barrier, unsigned first, unsigned last) {
    unsigned waiting = 0, ended = 0;
    for (unsigned i = first; i < last; ++i) {
        waiting += block->fibers[i].state == barrier;
        ended += block->fibers[i].state == State::Ended;
    }
    if (waiting > 0 && ended > 0 && waiting + ended == last - first) return EndedEarly;
    if (waiting == last - first)
        for (unsigned i = first; i < last; ++i) block->fibers[i].state = State::Ready;
    return Done;
}

// Runs the warp that begins at a thread as far as it comes without the others. Warps run one after the other, in an order
// that changes at each barrier of the block, and lanes forward or backward: what a missing barrier would leave to chance
// comes wrong in one of the orders.
inline Outcome run_warp(unsigned first, unsigned round, unsigned &ran) {
    for (;;) {
        const unsigned before = ran;
        for (unsigned lane = 0; lane < WARP_SIZE; ++lane) {
            const unsigned i = first + (round % 2 == 0 ? lane : WARP_SIZE - 1 - lane);
            if (block->fibers[i].state != State::Ready) continue;
            block->current = i;
            threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
            resume(block->fibers[i]);
            ++ran;
        }
        if (ran == before) return Done;
        if (Outcome outcome = open(State::AtWarpBarrier, first, first + WARP_SIZE)) return outcome;
    }
}

inline Outcome run_block(char *stacks) {
    const unsigned n = unsigned(block->fibers.size());
    for (unsigned i = 0; i < n; ++i) {
        Fiber &fiber = block->fibers[i];
        fiber.context.uc_stack.ss_sp = stacks + i * STACK;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        fiber.began = false;
        fiber.state = State::Ready;
        fiber.n_shuffles = 0;
        makecontext(&fiber.context, run_fiber, 0);
    }
    const unsigned n_warps = n / WARP_SIZE;
    for (unsigned round = 0;; ++round) {
        unsigned ran = 0, ended = 0;
        for (unsigned i = 0; i < n_warps; ++i) {
            const unsigned warp = ((round % 2 == 0 ? i : n_warps - 1 - i) + round / 2) % n_warps;
            if (Outcome outcome = run_warp(warp * WARP_SIZE, round, ran)) return outcome;
        }
        for (unsigned i = 0; i < n; ++i) ended += block->fibers[i].state == State::Ended;
        if (ended == n) return Done;
        if (ran == 0) return Stuck;
        if (Outcome outcome = open(State::AtBlockBarrier, 0, n)) return outcome;
    }
}

// Runs a kernel over a grid; `arguments` are addresses of its arguments, as the driver takes them.
inline int run(const unsigned grid[3], unsigned threads, unsigned shared_bytes, std::function<void()> kernel) {
    if (threads == 0 || threads > 1024 || threads % WARP_SIZE != 0 || grid[1] > 65535 || grid[2] > 65535) return BadLaunch;
    Block own;
    own.fibers.resize(threads);
    for (Fiber &fiber : own.fibers) getcontext(&fiber.context);
    own.slots[0].resize(threads);
    own.slots[1].resize(threads);
    own.kernel = std::move(kernel);
    void *stacks = mmap(nullptr, threads * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stacks == MAP_FAILED) return BadLaunch;
    block = &own;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    Outcome outcome = Done;
    for (unsigned z = 0; z < grid[2] && outcome == Done; ++z)
        for (unsigned y = 0; y < grid[1] && outcome == Done; ++y)
            for (unsigned x = 0; x < grid[0] && outcome == Done; ++x) {
                blockIdx = {x, y, z};
                own.shared.assign(shared_bytes, 0xff);
                outcome = run_block(static_cast<char *>(stacks));
            }
    block = nullptr;
    munmap(stacks, threads * STACK);
    return outcome;
}

template <class... A, size_t... I>
int launch(void (*kernel)(A...), const unsigned *grid, unsigned threads, unsigned shared_bytes, void **arguments,
           std::index_sequence<I...>) {
    return run(grid, threads, shared_bytes, [=] { kernel(*static_cast<std::remove_reference_t<A> *>(arguments[I])...); });
}

template <class... A> constexpr size_t count(void (*)(A...)) { return sizeof...(A); }

} // namespace on_host

// Exports a kernel as `host_NAME(grid, threads, shared_bytes, arguments, n_arguments)`.
#define HOST_KERNEL(name) \
    extern "C" int host_##name(const unsigned *grid, unsigned threads, unsigned shared_bytes, void **arguments, \
                               size_t n_arguments) { \
        constexpr size_t n = on_host::count(decltype(&name)(nullptr)); \
        if (n_arguments != n) return on_host::BadLaunch; \
        return on_host::launch(&name, grid, threads, shared_bytes, arguments, std::make_index_sequence<n>()); \
    }

inline void __syncthreads() { on_host::wait(on_host::State::AtBlockBarrier); }
inline void __syncwarp(unsigned = 0xffffffffu) { on_host::wait(on_host::State::AtWarpBarrier); }

// The value of another lane of the warp.
template <class T> T on_host_exchange(T value, unsigned from_lane) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a value of at most 8 bytes");
    on_host::Block &block = *on_host::block;
    const unsigned thread = block.current;
    std::vector<uint64_t> &slots = block.slots[block.fibers[thread].n_shuffles++ % 2];
    std::memcpy(&slots[thread], &value, sizeof value);
    __syncwarp();
    T other;
    std::memcpy(&other, &slots[thread - thread % on_host::WARP_SIZE + from_lane % on_host::WARP_SIZE], sizeof other);
    return other;
}
inline unsigned on_host_lane() { return on_host::block->current % on_host::WARP_SIZE; }
template <class T> T __shfl_sync(unsigned, T value, int lane) { return on_host_exchange(value, unsigned(lane)); }
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) {
    return on_host_exchange(value, on_host_lane() ^ unsigned(mask));
}
template <class T> T __shfl_down_sync(unsigned, T value, unsigned delta) {
    const unsigned lane = on_host_lane();
    return on_host_exchange(value, lane + delta < on_host::WARP_SIZE ? lane + delta : lane);
}
template <class T> T __shfl_up_sync(unsigned, T value, unsigned delta) {
    const unsigned lane = on_host_lane();
    return on_host_exchange(value, lane >= delta ? lane - delta : lane);
}
template <class T> T atomicAdd(T *to, T value) {
    const T old = *to;
    *to = old + value;
    return old;
}

// --- Arithmetic.

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
template <class T> T __ldg(const T *from) { return *from; }

struct __half {
    uint16_t bits;
};
struct __nv_bfloat16 {
    uint16_t bits;
};

inline uint32_t on_host_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float on_host_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline float __bfloat162float(__nv_bfloat16 x) { return on_host_float(uint32_t(x.bits) << 16); }
// Round to nearest, ties to even; a NaN stays one.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    if (std::isnan(x)) return {0x7fff};
    const uint32_t bits = on_host_bits(x);
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline float __half2float(__half x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 0x1f, fraction = x.bits & 0x3ff;
    if (exponent == 0) return std::copysign(float(fraction) * 0x1p-24f, on_host_float(sign | 0x3f800000));
    if (exponent == 31) return on_host_float(sign | 0x7f800000 | fraction << 13);
    return on_host_float(sign | (exponent + 112) << 23 | fraction << 13);
}
inline __half __float2half_rn(float x) {
    const uint16_t sign = uint16_t(on_host_bits(x) >> 16 & 0x8000);
    if (std::isnan(x)) return {0x7fff};
    const float size = std::fabs(x);
    if (size >= 65520.0f) return {uint16_t(sign | 0x7c00)};
    // Below the smallest normal number the steps are 2^-24; the default rounding of nearbyint is to nearest, ties to even.
    if (size < 0x1p-14f) return {uint16_t(sign | uint16_t(std::nearbyint(size * 0x1p24f)))};
    const uint32_t bits = on_host_bits(size);
    const uint32_t rounded = bits + 0xfff + (bits >> 13 & 1);
    return {uint16_t(sign | ((rounded >> 13) - (112 << 10)))};
}
