// Products of one vector with several rows, each of which is read once.
#pragma once

#include <utility>

#include "rows.h"
#include "vectors.h"

// A block of a row as two vectors, in an order that is the same for every row.
struct Block {
    Floats first, second;
};

inline Block block_of(const float* values) { return {load_floats(values), load_floats(values + LANES)}; }

inline Block block_of(const BFloat16* values) {
    const Words pairs = loaded_once(load_words(values));
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

// What `block_of` reads, rounded as `narrow` rounds.
inline void store_block(float* out, Block block) {
    store_floats(out, block.first);
    store_floats(out + LANES, block.second);
}

inline void store_block(BFloat16* out, Block block) {
    const Words words = narrowed(block.first, block.second);
    std::memcpy(out, &words, sizeof words);
}

inline void store_block(Half* out, Block block) {
    float values[BLOCK];
    store_block(values, block);
    narrow_all(values, out, BLOCK);
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

// What rows are multiplied with: the numbers of a token, of which floats are arranged as the rows' elements are.
template <typename Token> struct TokenFactor {
    const Token* values;

    Block before(int64_t begin) const {
        const Block block = block_of(values + begin);
        return {loaded_once(block.first), loaded_once(block.second)};
    }
    static Block beside(const Block& before, const Block&) { return before; }
    float number(int64_t j, float) const { return widen(values[j]); }
};

// Each row is multiplied with itself.
struct OwnFactor {
    static Block before(int64_t) { return {Floats{}, Floats{}}; }
    static Block beside(const Block&, const Block& there) { return there; }
    static float number(int64_t, float there) { return there; }
};

// Of rows that are read one after the other, so many rows before they are needed: what arrives meanwhile.
constexpr int64_t BYTES_AHEAD = 8192;
template <typename Element> inline int64_t rows_ahead(int64_t columns) {
    return std::max(TOGETHER, BYTES_AHEAD / int64_t(columns * sizeof(Element)));
}

// Calls body(0), body(1), ... with numbers that the compiler knows: arrays that only these index are registers.
template <typename Body, int... INDEX> inline void for_known(std::integer_sequence<int, INDEX...>, const Body& body) {
    (body(std::integral_constant<int, INDEX>{}), ...);
}

// Asks for what lies in rows that are needed later. A line that has several blocks is asked for as often: a processor
// that waits for many lines drops what it is asked.
template <typename Element> struct AskedFor {
    const Element* const* rows;

    void block(int row, int64_t begin) const {
        constexpr int64_t LINE = LINE_BYTES / sizeof(Element);
        for (int64_t line = 0; line < BLOCK; line += LINE) prefetch_line(rows[row] + begin + line);
    }
    void tail(int row, int64_t begin) const { prefetch_line(rows[row] + begin); }
};

// Asks for nothing: the processor foresees what is read.
struct Foreseen {
    static void block(int, int64_t) {}
    static void tail(int, int64_t) {}
};

// sums[row] = factor · rows[row], block by block. Each row has two sums: with one, every multiplication would wait for
// the one before it.
template <int ROWS, typename Factor, typename Element, typename Later>
inline void sum_products(const Factor& factor, const Element* const* rows, const Later& later, int64_t columns,
                         float* sums) {
    constexpr std::make_integer_sequence<int, ROWS> EVERY;
    Floats firsts[ROWS], seconds[ROWS];
    for_known(EVERY, [&](auto row) { firsts[row] = seconds[row] = Floats{}; });
    int64_t begin = 0;
    for (; begin + BLOCK <= columns; begin += BLOCK) {
        const Block before = factor.before(begin);
        for_known(EVERY, [&](auto row) {
            later.block(row, begin);
            const Block there = block_of(rows[row] + begin);
            const Block here = factor.beside(before, there);
            firsts[row] += here.first * there.first;
            seconds[row] += here.second * there.second;
        });
    }
    for_known(EVERY, [&](auto row) {
        if (begin < columns) later.tail(row, begin);
        firsts[row] += seconds[row];
        sums[row] = 0;
        for (int64_t j = begin; j < columns; ++j) {
            const float there = widen(rows[row][j]);
            sums[row] += factor.number(j, there) * there;
        }
    });
    add_sums<ROWS>(firsts, sums, 1);
}

// dots[row] = token · rows[row].
template <int ROWS, typename Token, typename Element, typename Later>
inline void dot_rows(const Token* token, const Element* const* rows, const Later& later, int64_t columns, float* dots) {
    sum_products<ROWS>(TokenFactor<Token>{token}, rows, later, columns, dots);
}

// squares[row] = rows[row] · rows[row].
template <int ROWS, typename Element, typename Later>
inline void square_rows(const Element* const* rows, const Later& later, int64_t columns, float* squares) {
    sum_products<ROWS>(OwnFactor{}, rows, later, columns, squares);
}
