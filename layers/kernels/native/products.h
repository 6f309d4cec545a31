// Products of few rows with a matrix that is read once, as it lies there: the threads of a parallel region share tasks
// of some of the matrix's rows, and all rows of x use them while they are in the first-level cache. No result depends
// on the number of threads.
//
// Letters: R rows of x, n and m the rows and columns of the matrix.
#pragma once

#include <omp.h>

#include <cmath>
#include <vector>

#include "dots.h"

constexpr int64_t BYTES_A_TASK = 786432;
constexpr int64_t TASKS_A_THREAD = 4;
constexpr int64_t LEAST_ROWS_A_TASK = 8 * TOGETHER;

struct Product {
    int64_t rows, n, m;

    int64_t multiplications() const { return rows * n * m; }

    // Rows of the matrix that a task has in a parallel region: long stretches, but enough tasks where it is small. They
    // are a multiple of TOGETHER, so that each row is summed in the same order whatever the number of threads.
    template <typename Element> int64_t rows_a_task() const {
        const int64_t longest = BYTES_A_TASK / (std::max<int64_t>(m, 1) * int64_t(sizeof(Element)));
        const int64_t fair = n / (TASKS_A_THREAD * omp_get_num_threads());
        return std::max(std::min(longest, fair) / TOGETHER * TOGETHER, LEAST_ROWS_A_TASK);
    }
};

// Two sums for each half of two blocks: with fewer, every multiplication would wait for the one before it.
struct Dot {
    Block sums[2] = {};

    template <int BLOCKS> void add(const float* x, const Block (&row)[BLOCKS]) {
        for_known(std::make_integer_sequence<int, BLOCKS>{}, [&](auto block) {
            sums[block].first += load_floats(x + block * BLOCK) * row[block].first;
            sums[block].second += load_floats(x + block * BLOCK + LANES) * row[block].second;
        });
    }
    Floats total() const { return (sums[0].first + sums[0].second) + (sums[1].first + sums[1].second); }
};

// Products of `TOKENS` rows of x (R, m), arranged, with one of the matrix: vectors whose sums they are, but for the tails,
// what comes after the last whole block.
template <int TOKENS, typename Element>
inline void dot_neuron(const float* x, const Element* row, int64_t m, Floats* vectors, float* tails, int64_t pitch) {
    constexpr std::make_integer_sequence<int, TOKENS> EVERY;
    Dot dots[TOKENS];
    int64_t begin = 0;
    for (; begin + 2 * BLOCK <= m; begin += 2 * BLOCK) {
        const Block blocks[] = {block_of(row + begin), block_of(row + begin + BLOCK)};
        for_known(EVERY, [&](auto token) { dots[token].add(x + token * m + begin, blocks); });
    }
    for (; begin + BLOCK <= m; begin += BLOCK) {
        const Block blocks[] = {block_of(row + begin)};
        for_known(EVERY, [&](auto token) { dots[token].add(x + token * m + begin, blocks); });
    }
    for_known(EVERY, [&](auto token) {
        vectors[token * TOGETHER] = dots[token].total();
        float tail = 0;
        for (int64_t j = begin; j < m; ++j) tail += x[token * m + j] * widen(row[j]);
        tails[token * pitch] = tail;
    });
}

// Sums (TOKENS, pitch) of `NEURONS` rows of the matrix. They are read one after the other: a processor foresees what is
// read in one stretch, and asks for it in time.
template <int TOKENS, int NEURONS, typename Element>
inline void dot_neurons(const float* x, const Element* rows, int64_t m, float* sums, int64_t pitch) {
    Floats vectors[TOKENS][TOGETHER];
    for (int j = 0; j < NEURONS; ++j) dot_neuron<TOKENS>(x, rows + j * m, m, &vectors[0][j], sums + j, pitch);
    for (int token = 0; token < TOKENS; ++token) add_sums<NEURONS>(vectors[token], sums + token * pitch, 1);
}

template <int NEURONS, typename Element>
inline void dot_all_tokens(const Product& given, const float* x, const Element* rows, float* sums, int64_t pitch) {
    int64_t token = 0;
    for (; token + 2 <= given.rows; token += 2)
        dot_neurons<2, NEURONS>(x + token * given.m, rows, given.m, sums + token * pitch, pitch);
    for (; token < given.rows; ++token)
        dot_neurons<1, NEURONS>(x + token * given.m, rows, given.m, sums + token * pitch, pitch);
}

// Sums (R, pitch) of the rows of the matrix from number `begin` to `end`.
template <typename Element>
inline void dot_task(const Product& given, const Element* x, const Element* matrix, int64_t begin, int64_t end, float* sums,
                     int64_t pitch) {
    const std::vector<float> arranged = arranged_rows(x, given.rows, given.m);
    int64_t at = begin;
    for (; at + TOGETHER <= end; at += TOGETHER)
        dot_all_tokens<TOGETHER>(given, arranged.data(), matrix + at * given.m, sums + at - begin, pitch);
    for (; at < end; ++at) dot_all_tokens<1>(given, arranged.data(), matrix + at * given.m, sums + at - begin, pitch);
}

// For stretches of the rows of the product of x (R, m) and the matrix finish(sums, row, begin, count), which may change
// the sums, by the threads of a parallel region.
template <typename Element, typename Finish>
void for_products(const Product& given, const Element* x, const Element* matrix, const Finish& finish) {
    const int64_t most = given.rows_a_task<Element>();
    std::vector<float> sums(given.rows * most);
#pragma omp for schedule(dynamic, 1)
    for (int64_t begin = 0; begin < given.n; begin += most) {
        const int64_t end = std::min(begin + most, given.n);
        dot_task(given, x, matrix, begin, end, sums.data(), most);
        for (int64_t row = 0; row < given.rows; ++row) finish(sums.data() + row * most, row, begin, end - begin);
    }
}

// out (R, n) of x (R, m) and the matrix, fp32 or of the element; `added` (R, n) to it, unless that is null.
template <typename Element, typename Out>
void multiply(const Product& given, const Element* x, const Element* matrix, const Element* added, Out* out) {
    for_products(given, x, matrix, [&](float* sums, int64_t row, int64_t begin, int64_t count) {
        const int64_t place = row * given.n + begin;
        for (int64_t j = 0; added && j < count; ++j) sums[j] += widen(added[place + j]);
        narrow_all(sums, out + place, count);
    });
}
