// Powers of e that a compiler makes vectors of, which it cannot of the library's.
#pragma once

#include <cmath>

#include "elements.h"

// e^x of x <= 0 to two units in the last place; what would be no normal number is 0. A NaN stays one.
inline float exp_of(float x) {
    const float bounded = x < -87.0f ? -87.0f : x;
    const float power = std::nearbyint(bounded * 1.44269504f);
    const float rest = (bounded - power * 0.693359375f) + power * 2.12194440e-4f;  // ln 2 in two parts
    float sum = 1.0f / 720;
    for (const float coefficient : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = sum * rest + coefficient;
    const float scaled = sum * float_of(uint32_t(int32_t(power) + 127) << 23);
    return x < -87.0f ? 0.0f : scaled;
}

// 1 / (1 + e^-x), by the power that cannot overflow.
inline float sigmoid(float x) {
    const float power = exp_of(x < 0 ? x : -x), larger = 1 / (1 + power);
    return x < 0 ? power * larger : larger;
}
