// Bags over rows: see layers/kernels/row_passes.py, and quantized_bag.py for rows of eight-bit numbers.
//
// Letters: N rows, D columns, B bags, L lookups of a bag.
#pragma once

#include <omp.h>

#include <vector>

#include "rows.h"

struct Int8 {
    int8_t bits;
};

// e4m3fn: a sign, four bits of exponent, three of fraction.
struct Float8 {
    int8_t bits;
};

inline float widen(Int8 value) { return float(value.bits); }

// Its bits where an fp32 has them; the biases of the exponents, 7 and 127, differ by 120.
inline float widen(Float8 value) { return float_of(uint32_t(int32_t(value.bits)) << 20 & 0x87f00000u) * 0x1p120f; }

struct Bags {
    const float* scales;   // (N,), or null: rows as they are
    const int64_t* rows;   // (B, L)
    const float* weights;  // (B, L)
    int64_t bags, lookups, columns;

    int64_t multiplications() const { return bags * lookups * columns; }
};

// sum += factors · rows, line by line, and of rows needed later a line is asked for at each.
template <int ROWS, typename Element>
inline void add_rows(float* __restrict sum, const Element* const* rows, const float* factors,
                     const Element* const* later, int64_t columns) {
    constexpr int64_t LINE = LINE_BYTES / sizeof(Element);
    int64_t begin = 0;
    for (; begin + LINE <= columns; begin += LINE) {
        for (int row = 0; row < ROWS; ++row) prefetch_line(later[row] + begin);
#pragma omp simd
        for (int64_t j = 0; j < LINE; ++j) {
            float total = sum[begin + j];
#pragma GCC unroll 4
            for (int row = 0; row < ROWS; ++row) total += factors[row] * widen(rows[row][begin + j]);
            sum[begin + j] = total;
        }
    }
    for (int row = 0; row < ROWS; ++row) {
        prefetch_line(later[row] + begin);
        for (int64_t j = begin; j < columns; ++j) sum[j] += factors[row] * widen(rows[row][j]);
    }
}

// Adds `ROWS` lookups of a bag, from number `at` on, to the sum of `columns` columns from `first` on.
template <int ROWS, typename Element>
inline void add_lookups(const Bags& given, const Element* table, int64_t at, int64_t first, int64_t columns, float* sum) {
    const int64_t last = given.bags * given.lookups - 1;
    const Element* rows[ROWS];
    const Element* later[ROWS];
    float factors[ROWS];
    for (int row = 0; row < ROWS; ++row) {
        const int64_t now = given.rows[at + row], next = given.rows[std::min(at + row + ROWS_AHEAD, last)];
        if (given.scales) prefetch_line(given.scales + next);
        rows[row] = table + now * given.columns + first;
        later[row] = table + next * given.columns + first;
        factors[row] = given.weights[at + row] * (given.scales ? given.scales[now] : 1.0f);
    }
    add_rows<ROWS>(sum, rows, factors, later, columns);
}

// For each bag and stretch of columns finish(sum, bag, first, columns), by the threads of a parallel region. They take
// bags, or where there are fewer bags than threads, slices of at least `least_slice` columns.
template <typename Element, typename Finish>
void for_bags(const Bags& given, const Element* table, int64_t least_slice, const Finish& finish) {
    const int64_t threads = omp_get_num_threads();
    const int64_t idle = given.bags ? (threads + given.bags - 1) / given.bags : 1;
    const int64_t slices = std::max<int64_t>(1, std::min(idle, given.columns / least_slice));
    const int64_t lines = (given.columns + LINE_BYTES - 1) / LINE_BYTES;
    const int64_t width = (lines + slices - 1) / slices * LINE_BYTES;
    // several turns a thread, as one may be slower; of few tasks one at a time, that every thread gets some
    const int64_t tasks = given.bags * slices, a_turn = std::max<int64_t>(1, tasks / (8 * threads));
    std::vector<float> sum(width);
#pragma omp for schedule(dynamic, a_turn)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t bag = task / slices, first = task % slices * width;
        const int64_t columns = std::min(width, given.columns - first);
        if (columns <= 0) continue;
        std::fill(sum.begin(), sum.end(), 0.0f);
        int64_t at = bag * given.lookups;
        const int64_t end = at + given.lookups;
        for (; at + TOGETHER <= end; at += TOGETHER)
            add_lookups<TOGETHER>(given, table, at, first, columns, sum.data());
        for (; at < end; ++at) add_lookups<1>(given, table, at, first, columns, sum.data());
        finish(sum.data(), bag, first, columns);
    }
}
