// Vectors of floats as wide as the processor's registers, and pairs of them made of bfloat16 numbers.
//
// A register full of bfloat16 numbers becomes two of floats without a shuffle: its even numbers are the lower halves
// of 32-bit words, its odd ones the upper halves. So what is multiplied with them is kept in the same order, a BLOCK at
// a time: first the numbers at even places, then those at odd places.
#pragma once

#include "elements.h"

#ifdef __AVX__
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

// Loaded once and used often: a compiler that can would rather load it again for every use, and the processor then waits
// for loads.
template <typename Vector> inline Vector loaded_once(Vector vector) {
#if defined(__AVX512F__)
    asm("" : "+v"(vector));
#elif defined(__AVX__)
    asm("" : "+x"(vector));
#endif
    return vector;
}

inline void store_floats(float* address, Floats floats) { std::memcpy(address, &floats, sizeof floats); }

inline Floats evens_of(Words pairs) { return (Floats)(pairs << 16); }
inline Floats odds_of(Words pairs) { return (Floats)(pairs & 0xffff0000u); }

// The upper 16 bits of each, to nearest, ties to even; a NaN stays one. The lower bits are what is left over.
inline Words rounded(Floats floats) {
    const Words bits = (Words)floats;
    const Words nan = (Words)(floats != floats);
    return ((bits | 0x400000u) & nan) | ((bits + 0x7fffu + ((bits >> 16) & 1u)) & ~nan);
}

inline Words narrowed(Floats evens, Floats odds) { return (rounded(evens) >> 16) | (rounded(odds) & 0xffff0000u); }

// The sum of each of `count` vectors, added to out[i * pitch]. Halves of two vectors are added at once, which takes
// fewer instructions than to sum vector by vector.
template <int COUNT> inline void add_sums(const Floats* vectors, float* out, int64_t pitch) {
    int i = 0;
#ifdef __AVX512F__
    for (; i + 4 <= COUNT; i += 4) {
        const __m512 a = (__m512)vectors[i], b = (__m512)vectors[i + 1], c = (__m512)vectors[i + 2], d = (__m512)vectors[i + 3];
        const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
        const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all),
                                          _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(all), 1)));
        float sums[4];
        _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
        for (int j = 0; j < 4; ++j) out[(i + j) * pitch] += sums[j];
    }
#elif defined(__AVX__)
    for (; i + 4 <= COUNT; i += 4) {
        const __m256 ab = _mm256_hadd_ps((__m256)vectors[i], (__m256)vectors[i + 1]);
        const __m256 cd = _mm256_hadd_ps((__m256)vectors[i + 2], (__m256)vectors[i + 3]);
        const __m256 all = _mm256_hadd_ps(ab, cd);
        float sums[4];
        _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
        for (int j = 0; j < 4; ++j) out[(i + j) * pitch] += sums[j];
    }
#endif
    for (; i < COUNT; ++i) {
        float lanes[LANES];
        store_floats(lanes, vectors[i]);
        for (int width = LANES / 2; width; width /= 2)
            for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
        out[i * pitch] += lanes[0];
    }
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

// The same for whole lines, which narrower registers fill in several stores, one right after the other.
inline void copy_past_caches(void* to, const void* from, int64_t bytes) {
#ifdef __AVX__
    constexpr int64_t LINE = 64, WIDTH = sizeof(Words);
    if (reinterpret_cast<uintptr_t>(to) % LINE == 0 && bytes % LINE == 0) {
        char* out = static_cast<char*>(to);
        const char* in = static_cast<const char*>(from);
        for (int64_t at = 0; at < bytes; at += WIDTH) {
            const Words words = load_words(in + at);
#ifdef __AVX512F__
            _mm512_stream_si512(reinterpret_cast<__m512i*>(out + at), (__m512i)words);
#else
            _mm256_stream_si256(reinterpret_cast<__m256i*>(out + at), (__m256i)words);
#endif
        }
        return;
    }
#endif
    std::memcpy(to, from, bytes);
}

// Before another thread reads what was stored past the caches.
inline void finish_stores_past_caches() {
#ifdef __AVX__
    _mm_sfence();
#endif
}
