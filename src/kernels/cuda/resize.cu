// Preprocessing of a frame: padding, resizing in two integer passes like Pillow (libImaging/Resample.c, up to version
// 12), cropping and normalising. Levels are bit-identical to image/resize.rs: 32-bit sums of levels times weights with
// 22 fractional bits, rounded and clipped to 8 bits after each pass.
#include "elements.cuh"

static constexpr int WEIGHT_BITS = 22;
static constexpr int32_t HALF_LEVEL = 1 << (WEIGHT_BITS - 1);

__device__ inline uint32_t level_of(int32_t sum) {
    const int32_t level = sum >> WEIGHT_BITS;
    return level < 0 ? 0 : level > 255 ? 255 : uint32_t(level);
}

// First pass, along rows of a canvas of one colour (0xBBGGRR) with the frame (height, width, 3) at (left, top).
//
// Shapes: y (n_rows, n_columns, 3), starts (n_columns), weights (n_columns, n_taps). One thread per pixel of y.
extern "C" __global__ void resize_rows(uint8_t *y, const uint8_t *frame, const uint32_t *starts, const uint32_t *weights,
                                       uint32_t n_taps, uint32_t n_rows, uint32_t n_columns, uint32_t width,
                                       uint32_t height, uint32_t left, uint32_t top, uint32_t colour) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n_rows * n_columns) return;
    const uint32_t row = i / n_columns - top, column = i % n_columns; // above the frame: wraps to a row beyond its height
    int32_t sums[3] = {HALF_LEVEL, HALF_LEVEL, HALF_LEVEL};
    for (uint32_t k = 0; k < n_taps; ++k) {
        const uint32_t x = starts[column] + k - left;
        const int32_t weight = int32_t(weights[size_t(column) * n_taps + k]);
        const bool inside = row < height && x < width;
        const uint8_t *pixel = frame + (size_t(inside ? row : 0) * width + (inside ? x : 0)) * 3;
        for (int c = 0; c < 3; ++c) sums[c] += weight * int32_t(inside ? pixel[c] : colour >> (8 * c) & 255);
    }
    for (int c = 0; c < 3; ++c) y[size_t(i) * 3 + c] = uint8_t(level_of(sums[c]));
}

// Second pass, along columns of the crop at (left, top), which may exceed the canvas, where it is black; then the
// lookup of each level's value.
//
// Shapes: y (3, height, width), x (canvas rows, n_columns, 3), starts (n_rows), weights (n_rows, n_taps), levels
// (3, 256). One thread per pixel of y.
template <class T>
__device__ void resize_columns(T *y, const uint8_t *x, const uint32_t *starts, const uint32_t *weights,
                               const float *levels, uint32_t n_taps, uint32_t n_rows, uint32_t n_columns, uint32_t width,
                               uint32_t height, uint32_t left, uint32_t top) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= height * width) return;
    const uint32_t row = i / width + top, column = i % width + left; // before the canvas: wraps to beyond its size
    const bool inside = row < n_rows && column < n_columns;
    int32_t sums[3] = {HALF_LEVEL, HALF_LEVEL, HALF_LEVEL};
    for (uint32_t k = 0; inside && k < n_taps; ++k) {
        const int32_t weight = int32_t(weights[size_t(row) * n_taps + k]);
        if (weight == 0) continue; // also for taps behind the last row
        const uint8_t *pixel = x + (size_t(starts[row] + k) * n_columns + column) * 3;
        for (int c = 0; c < 3; ++c) sums[c] += weight * int32_t(pixel[c]);
    }
    for (int c = 0; c < 3; ++c) {
        const uint32_t level = inside ? level_of(sums[c]) : 0;
        y[size_t(c) * height * width + i] = from_float<T>(levels[c * 256 + level]);
    }
}

#define INSTANTIATE(T, suffix) \
    extern "C" __global__ void resize_columns_##suffix(T *y, const uint8_t *x, const uint32_t *starts, \
                                                       const uint32_t *weights, const float *levels, uint32_t n_taps, \
                                                       uint32_t n_rows, uint32_t n_columns, uint32_t width, \
                                                       uint32_t height, uint32_t left, uint32_t top) { \
        resize_columns(y, x, starts, weights, levels, n_taps, n_rows, n_columns, width, height, left, top); \
    }
FOR_EACH_ELEMENT(INSTANTIATE)
