// Bags over rows of eight-bit numbers, with a scale a row: see layers/kernels/quantized_bag.py.
//
// Letters: D columns, B bags, L lookups of a bag.

#include <vector>

#include "rows.h"

namespace {

constexpr int64_t TOGETHER = 4;        // rows added in one pass over the sum
constexpr int64_t ROWS_AHEAD = 8;      // asked for before they are needed
constexpr int64_t LEAST_SLICE = 512;   // columns below which a bag is not shared by several threads

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
    const float* scales;   // (N,)
    const int64_t* rows;   // (B, L)
    const float* weights;  // (B, L)
    int64_t bags, lookups, columns;
};

// sum += factors · rows, line by line, and of rows needed later a line is asked for at each.
template <int ROWS, typename Element>
inline void add_rows(float* __restrict sum, const Element* const* rows, const float* factors,
                     const Element* const* later, int64_t columns) {
    int64_t begin = 0;
    for (; begin + LINE_BYTES <= columns; begin += LINE_BYTES) {
        for (int row = 0; row < ROWS; ++row) __builtin_prefetch(later[row] + begin);
#pragma omp simd
        for (int64_t j = 0; j < LINE_BYTES; ++j) {
            float total = sum[begin + j];
#pragma GCC unroll 4
            for (int row = 0; row < ROWS; ++row) total += factors[row] * widen(rows[row][begin + j]);
            sum[begin + j] = total;
        }
    }
    for (int row = 0; row < ROWS; ++row) {
        __builtin_prefetch(later[row] + begin);
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
        __builtin_prefetch(given.scales + next);
        rows[row] = table + now * given.columns + first;
        later[row] = table + next * given.columns + first;
        factors[row] = given.weights[at + row] * given.scales[now];
    }
    add_rows<ROWS>(sum, rows, factors, later, columns);
}

// Each thread takes bags, or where there are fewer bags than threads, slices of their columns.
template <typename Element, typename Out>
void quantized_bag(const Bags& given, const void* table_, Out* out, int threads) {
    const Element* table = static_cast<const Element*>(table_);
    threads = useful_threads(threads, given.bags * given.lookups * given.columns);
    const int64_t idle = given.bags ? (threads + given.bags - 1) / given.bags : 1;
    const int64_t slices = std::max<int64_t>(1, std::min(idle, given.columns / LEAST_SLICE));
    const int64_t lines = (given.columns + LINE_BYTES - 1) / LINE_BYTES;
    const int64_t width = (lines + slices - 1) / slices * LINE_BYTES;
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> sum(width);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < given.bags * slices; ++task) {
            const int64_t bag = task / slices, first = task % slices * width;
            const int64_t columns = std::min(width, given.columns - first);
            if (columns <= 0) continue;
            std::fill(sum.begin(), sum.end(), 0.0f);
            int64_t at = bag * given.lookups;
            const int64_t end = at + given.lookups;
            for (; at + TOGETHER <= end; at += TOGETHER)
                add_lookups<TOGETHER>(given, table, at, first, columns, sum.data());
            for (; at < end; ++at) add_lookups<1>(given, table, at, first, columns, sum.data());
            Out* bag_out = out + bag * given.columns + first;
#pragma omp simd
            for (int64_t j = 0; j < columns; ++j) bag_out[j] = narrow<Out>(sum[j]);
        }
    }
}

template <typename Element>
void to_element(const Bags& given, const void* table, int element, void* out, int threads) {
    switch (element) {
        case 0: return quantized_bag<Element>(given, table, static_cast<float*>(out), threads);
        case 1: return quantized_bag<Element>(given, table, static_cast<BFloat16*>(out), threads);
        case 2: return quantized_bag<Element>(given, table, static_cast<Half*>(out), threads);
    }
}

}  // namespace

extern "C" void membench_quantized_bag(int is_float8, const void* table, const float* scales, const int64_t* rows,
                                       const float* weights, int64_t bags, int64_t lookups, int64_t columns,
                                       int element, void* out, int threads) {
    const Bags given{scales, rows, weights, bags, lookups, columns};
    if (is_float8)
        to_element<Float8>(given, table, element, out, threads);
    else
        to_element<Int8>(given, table, element, out, threads);
}
