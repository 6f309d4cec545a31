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

constexpr int64_t BYTES_A_TASK = 786432;  // in TOGETHER stretches, each of many pages
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

// Sums (R, pitch) of `NEURONS` rows of the matrix, `apart` rows from each other: from number `first` on.
template <int NEURONS, typename Element>
inline void dot_neurons(const Product& given, const Element* x, const Element* matrix, int64_t first, int64_t apart,
                        float* sums, int64_t pitch) {
    const Element* rows[NEURONS];
    float found[NEURONS];
    for (int j = 0; j < NEURONS; ++j) rows[j] = matrix + (first + j * apart) * given.m;
    for (int64_t row = 0; row < given.rows; ++row) {
        dot_rows<NEURONS>(x + row * given.m, rows, Foreseen{}, given.m, found);
        for (int j = 0; j < NEURONS; ++j) sums[row * pitch + j * apart] = found[j];
    }
}

// Sums (R, pitch) of the rows of the matrix from number `begin` to `end`. They are read as so many stretches side by
// side, which the processor foresees each by itself: of one stretch, or of rows that lie in one page, it asks for less
// at a time than memory can give.
template <typename Element>
inline void dot_task(const Product& given, const Element* x, const Element* matrix, int64_t begin, int64_t end, float* sums,
                     int64_t pitch) {
    const int64_t stretch = (end - begin) / TOGETHER;
    for (int64_t at = 0; at < stretch; ++at)
        dot_neurons<TOGETHER>(given, x, matrix, begin + at, stretch, sums + at, pitch);
    for (int64_t at = TOGETHER * stretch; at < end - begin; ++at)
        dot_neurons<1>(given, x, matrix, begin + at, 1, sums + at, pitch);
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
