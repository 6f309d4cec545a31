// The number formats of rows, widened to float for arithmetic and rounded back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __F16C__
#include <immintrin.h>
#endif

// How many runs of a pass one thread takes at a time.
constexpr int64_t RUNS_A_TASK = 64;

// Waking a thread costs about as much as so many multiplications.
constexpr int64_t WORTH_A_THREAD = 1 << 15;

inline int useful_threads(int threads, int64_t multiplications) {
    return int(std::clamp<int64_t>(multiplications / WORTH_A_THREAD, 1, threads));
}

inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

struct BFloat16 {
    uint16_t bits;
};

struct Half {
    uint16_t bits;
};

inline float widen(float value) { return value; }
inline float widen(BFloat16 value) { return float_of(uint32_t(value.bits) << 16); }

// An exponent of 5 bits is one of 8 times 2^112; those of infinities and NaN are all ones.
inline float widen(Half value) {
    const uint32_t magnitude = uint32_t(value.bits & 0x7fff) << 13;
    const uint32_t special = magnitude >= 0x0f800000 ? 0x7f800000 : 0;
    const float scaled = float_of(magnitude) * 0x1p112f;
    return float_of(bits_of(scaled) | special | uint32_t(value.bits & 0x8000) << 16);
}

// Calls `function<Element>` for the element's number: 0 float, 1 bfloat16, 2 float16.
#define FOR_ELEMENT(element, function, ...)                              \
    switch (element) {                                                   \
        case 0: return function<float>(__VA_ARGS__);                     \
        case 1: return function<BFloat16>(__VA_ARGS__);                  \
        case 2: return function<Half>(__VA_ARGS__);                      \
    }

template <typename Element> Element narrow(float value);
template <> inline float narrow<float>(float value) { return value; }

// To nearest, ties to even; a NaN stays one.
template <> inline BFloat16 narrow<BFloat16>(float value) {
    uint32_t bits = bits_of(value);
    uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
    bool nan = (bits & 0x7fffffff) > 0x7f800000;
    return {uint16_t((nan ? bits | 0x400000 : rounded) >> 16)};
}

template <> inline Half narrow<Half>(float value) {
    const uint32_t sign = bits_of(value) >> 16 & 0x8000, bits = bits_of(value) & 0x7fffffff;
    if (bits > 0x7f800000) return {uint16_t(sign | 0x7e00)};
    // below 2^-14 an addition rounds as it should: the last bit of 0.5 is worth the last of a half
    if (bits < 0x38800000) return {uint16_t(sign | (bits_of(float_of(bits) + 0.5f) - bits_of(0.5f)))};
    const uint32_t rounded = (bits + 0xfff + (bits >> 13 & 1) - (112u << 23)) >> 13;
    return {uint16_t(sign | std::min(rounded, uint32_t(0x7c00)))};
}

// The finalizer of MurmurHash3: every bit of the result depends on every bit of h.
inline uint32_t mixed(uint32_t h) {
    h ^= h >> 16;
    h *= 0x85ebca6bu;
    h ^= h >> 13;
    h *= 0xc2b2ae35u;
    h ^= h >> 16;
    return h;
}

template <typename Element> inline void narrow_all(const float* values, Element* out, int64_t count) {
#pragma omp simd
    for (int64_t j = 0; j < count; ++j) out[j] = narrow<Element>(values[j]);
}

#ifdef __F16C__
template <> inline void narrow_all<Half>(const float* values, Half* out, int64_t count) {
    int64_t j = 0;
    for (; j + 8 <= count; j += 8)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + j), _mm256_cvtps_ph(_mm256_loadu_ps(values + j), 0));
    for (; j < count; ++j) out[j] = narrow<Half>(values[j]);
}
#endif

// Rounds up or down at random, with probabilities that keep the mean. The values are numbered from `index` on.
inline void narrow_stochastically(const float* values, BFloat16* out, int64_t count, uint64_t index, uint32_t seed) {
    while (count > 0) {
        // numbers with the same upper half: all of them, but at multiples of 2^32
        const int64_t here = std::min<uint64_t>(count, (uint64_t(1) << 32) - uint32_t(index));
        const uint32_t upper = mixed(uint32_t(index >> 32) + seed), lower = uint32_t(index);
#pragma omp simd
        for (int64_t j = 0; j < here; ++j) {
            const uint32_t bits = bits_of(values[j]);
            const uint32_t random = mixed((lower + uint32_t(j)) ^ upper) & 0xffff;
            const bool finite = (bits & 0x7f800000) != 0x7f800000;
            out[j] = BFloat16{finite ? uint16_t((bits + random) >> 16) : narrow<BFloat16>(values[j]).bits};
        }
        values += here, out += here, index += here, count -= here;
    }
}
