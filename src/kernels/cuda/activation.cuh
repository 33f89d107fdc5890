// Activations, computed in f32.
#pragma once

#include "elements.cuh"

enum Activation : uint32_t { NONE = 0, QUICK_GELU = 1, GELU_TANH = 2, GELU = 3 };

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ inline float activate(float x, uint32_t activation) {
    switch (activation) {
    case QUICK_GELU:
        return x * sigmoid(1.702f * x);
    case GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    case GELU:
        return 0.5f * x * (1.0f + erff(x * 0.7071067812f));
    default:
        return x;
    }
}
