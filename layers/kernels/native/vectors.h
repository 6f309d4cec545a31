// Vectors of floats as wide as the processor's registers, and pairs of them made of bfloat16 numbers.
//
// A register full of bfloat16 numbers becomes two of floats without a shuffle: its even numbers are the lower halves
// of 32-bit words, its odd ones the upper halves. So what is multiplied with them is kept in the same order, a BLOCK at
// a time: first the numbers at even places, then those at odd places.
#pragma once

#include "elements.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__ARM_NEON)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

constexpr int64_t BLOCK = 2 * LANES;

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

inline Words load_words(const void* address) {
    Words words;
    std::memcpy(&words, address, sizeof words);
    return words;
}

inline Floats load_floats(const float* address) {
    Floats floats;
    std::memcpy(&floats, address, sizeof floats);
    return floats;
}

inline void store_floats(float* address, Floats floats) { std::memcpy(address, &floats, sizeof floats); }

inline Floats evens_of(Words pairs) { return (Floats)(pairs << 16); }
inline Floats odds_of(Words pairs) { return (Floats)(pairs & 0xffff0000u); }

// The upper 16 bits of each, to nearest, ties to even; a NaN stays one. The lower bits are what is left over.
inline Words rounded(Floats floats) {
    const Words bits = (Words)floats;
    const Words nan = (Words)((bits & 0x7fffffffu) > 0x7f800000u);
    return ((bits | 0x400000u) & nan) | ((bits + 0x7fffu + ((bits >> 16) & 1u)) & ~nan);
}

inline Words narrowed(Floats evens, Floats odds) { return (rounded(evens) >> 16) | (rounded(odds) & 0xffff0000u); }

inline float sum_of(Floats floats) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)floats);
#else
    float lanes[LANES];
    std::memcpy(lanes, &floats, sizeof lanes);
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
    return lanes[0];
#endif
}

// A whole aligned line goes past the caches: what is written once and read much later would only evict what is needed.
inline void store_past_caches(void* address, Words words) {
#ifdef __AVX512F__
    if (reinterpret_cast<uintptr_t>(address) % sizeof words == 0) {
        _mm512_stream_si512(static_cast<__m512i*>(address), (__m512i)words);
        return;
    }
#endif
    std::memcpy(address, &words, sizeof words);
}

// Before another thread reads what was stored past the caches.
inline void finish_stores_past_caches() {
#ifdef __AVX512F__
    _mm_sfence();
#endif
}
