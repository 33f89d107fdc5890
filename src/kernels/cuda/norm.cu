// Norms over rows, one block per row, computed in f32: layer norm (arXiv 1607.06450) and RMS norm (arXiv 1910.07467).
//
// Shapes: x and y (R, width), weight and bias (width). Grid (R), block: a thread for each 16 bytes of a row, at most
// 1024.
#include "reduce.cuh"

// y = x / sqrt(mean(x^2) + eps) * weight
template <class T> __device__ void rms_norm(T *y, const T *x, const T *weight, uint32_t width, float eps) {
    const bool aligned = is_aligned(y, x, weight);
    x += size_t(blockIdx.x) * width;
    y += size_t(blockIdx.x) * width;
    float sum = 0.0f;
    for_row<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float v[N];
        load<N>(x + i, v);
        for (int k = 0; k < N; ++k) sum += v[k] * v[k];
    });
    const float scale = 1.0f / sqrtf(reduce_block<Sum>(sum) / float(width) + eps);
    for_row<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float v[N], w[N];
        load<N>(x + i, v);
        load<N>(weight + i, w);
        for (int k = 0; k < N; ++k) v[k] = v[k] * scale * w[k];
        store<N>(y + i, v);
    });
}

// y = (x - mean) / sqrt(variance + eps) * weight + bias; two passes: the variance is computed about the mean.
template <class T>
__device__ void layer_norm(T *y, const T *x, const T *weight, const T *bias, uint32_t width, float eps) {
    const bool aligned = is_aligned(y, x, weight, bias);
    x += size_t(blockIdx.x) * width;
    y += size_t(blockIdx.x) * width;
    float sum = 0.0f;
    for_row<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float v[N];
        load<N>(x + i, v);
        for (int k = 0; k < N; ++k) sum += v[k];
    });
    const float mean = reduce_block<Sum>(sum) / float(width);
    float squares = 0.0f;
    for_row<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float v[N];
        load<N>(x + i, v);
        for (int k = 0; k < N; ++k) squares += (v[k] - mean) * (v[k] - mean);
    });
    const float scale = 1.0f / sqrtf(reduce_block<Sum>(squares) / float(width) + eps);
    for_row<T>(width, aligned, [&](uint32_t i, auto count) {
        constexpr int N = decltype(count)::value;
        float v[N], w[N], b[N];
        load<N>(x + i, v);
        load<N>(weight + i, w);
        load<N>(bias + i, b);
        for (int k = 0; k < N; ++k) v[k] = (v[k] - mean) * scale * w[k] + b[k];
        store<N>(y + i, v);
    });
}

#define INSTANTIATE(T, suffix) \
    extern "C" __global__ void __launch_bounds__(1024) \
        rms_norm_##suffix(T *y, const T *x, const T *weight, uint32_t width, float eps) { \
        rms_norm(y, x, weight, width, eps); \
    } \
    extern "C" __global__ void __launch_bounds__(1024) \
        layer_norm_##suffix(T *y, const T *x, const T *weight, const T *bias, uint32_t width, float eps) { \
        layer_norm(y, x, weight, bias, width, eps); \
    }
FOR_EACH_ELEMENT(INSTANTIATE)
