// Products of one vector with several rows, each of which is read once.
#pragma once

#include "rows.h"
#include "vectors.h"

// A block of a row as two vectors, in an order that is the same for every row.
struct Block {
    Floats first, second;
};

inline Block block_of(const float* values) { return {load_floats(values), load_floats(values + LANES)}; }

inline Block block_of(const BFloat16* values) {
    const Words pairs = load_words(values);
    return {evens_of(pairs), odds_of(pairs)};
}

inline Block block_of(const Half* values) {
#ifdef __AVX512F__
    __m256i first, second;
    std::memcpy(&first, values, sizeof first);
    std::memcpy(&second, values + LANES, sizeof second);
    return {(Floats)_mm512_cvtph_ps(first), (Floats)_mm512_cvtph_ps(second)};
#elif defined(__AVX__) && defined(__F16C__)
    __m128i first, second;
    std::memcpy(&first, values, sizeof first);
    std::memcpy(&second, values + LANES, sizeof second);
    return {(Floats)_mm256_cvtph_ps(first), (Floats)_mm256_cvtph_ps(second)};
#else
    float widened[BLOCK];
#pragma omp simd
    for (int64_t j = 0; j < BLOCK; ++j) widened[j] = widen(values[j]);
    return block_of(widened);
#endif
}

// out (columns,): values (columns,), each whole block in the order that `block_of` gives elements.
template <typename Element> inline void arrange(const float* values, int64_t columns, float* out) {
    std::copy(values, values + columns, out);
}
template <> inline void arrange<BFloat16>(const float* values, int64_t columns, float* out) {
    std::copy(values, values + columns, out);
    for (int64_t begin = 0; begin + BLOCK <= columns; begin += BLOCK)
        for (int64_t j = 0; j < LANES; ++j) {
            out[begin + j] = values[begin + 2 * j];
            out[begin + LANES + j] = values[begin + 2 * j + 1];
        }
}

// dots[row] = token · rows[row], block by block, and of rows needed later what lies there is asked for. A token of
// floats is arranged as the rows' elements are.
template <int ROWS, typename Token, typename Element>
inline void dot_rows(const Token* token, const Element* const* rows, const Element* const* later, int64_t columns,
                     float* dots) {
    constexpr int64_t LINE = LINE_BYTES / sizeof(Element);
    Floats sums[ROWS] = {};
    float rest[ROWS] = {};
    int64_t begin = 0;
    for (; begin + BLOCK <= columns; begin += BLOCK) {
        const Block here = block_of(token + begin);
#pragma GCC unroll 4
        for (int row = 0; row < ROWS; ++row) {
            for (int64_t line = 0; line < BLOCK; line += LINE) prefetch_line(later[row] + begin + line);
            const Block there = block_of(rows[row] + begin);
            sums[row] += here.first * there.first;
            sums[row] += here.second * there.second;
        }
    }
    for (int row = 0; row < ROWS; ++row) {
        prefetch_line(later[row] + begin);
        for (int64_t j = begin; j < columns; ++j) rest[row] += widen(token[j]) * widen(rows[row][j]);
        dots[row] = rest[row];
    }
    add_sums<ROWS>(sums, dots, 1);
}
