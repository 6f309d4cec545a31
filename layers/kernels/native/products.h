// Products of few rows with a matrix that is read once, as it lies there: the threads of a parallel region share tasks
// of some of the matrix's rows, and all rows of x use them while they are in the first-level cache. No result depends
// on the number of threads.
//
// Letters: R rows of x, n and m the rows and columns of the matrix.
#pragma once

#include <cmath>
#include <vector>

#include "dots.h"

constexpr int64_t MATRIX_ROWS = 32;  // of a task, several of TOGETHER: long stretches, and enough tasks for small matrices

struct Product {
    int64_t rows, n, m;

    int64_t multiplications() const { return rows * n * m; }
};

// Sums (R, MATRIX_ROWS) of `NEURONS` rows of the matrix from number `first` on. As many rows after them are asked for.
template <int NEURONS, typename Element>
inline void dot_neurons(const Product& given, const Element* x, const Element* matrix, int64_t first, float* sums) {
    const Element* rows[NEURONS];
    const Element* later[NEURONS];
    for (int j = 0; j < NEURONS; ++j) {
        rows[j] = matrix + (first + j) * given.m;
        later[j] = matrix + std::min(first + NEURONS + j, given.n - 1) * given.m;
    }
    for (int64_t row = 0; row < given.rows; ++row)
        dot_rows<NEURONS>(x + row * given.m, rows, later, given.m, sums + row * MATRIX_ROWS);
}

// Sums (R, MATRIX_ROWS) of the rows of the matrix from number `begin` to `end`.
template <typename Element>
inline void dot_task(const Product& given, const Element* x, const Element* matrix, int64_t begin, int64_t end, float* sums) {
    int64_t at = begin;
    for (; at + TOGETHER <= end; at += TOGETHER) dot_neurons<TOGETHER>(given, x, matrix, at, sums + at - begin);
    for (; at < end; ++at) dot_neurons<1>(given, x, matrix, at, sums + at - begin);
}

// out (R, n) of x (R, m) and the matrix, fp32 or of the element; `added` (R, n) to it, unless that is null.
template <typename Element, typename Out>
void multiply(const Product& given, const Element* x, const Element* matrix, const Element* added, Out* out) {
    std::vector<float> sums(given.rows * MATRIX_ROWS);
#pragma omp for schedule(dynamic, 1)
    for (int64_t begin = 0; begin < given.n; begin += MATRIX_ROWS) {
        const int64_t end = std::min(begin + MATRIX_ROWS, given.n);
        dot_task(given, x, matrix, begin, end, sums.data());
        for (int64_t row = 0; row < given.rows; ++row) {
            float* sum = sums.data() + row * MATRIX_ROWS;
            const int64_t place = row * given.n + begin;
            for (int64_t j = 0; added && j < end - begin; ++j) sum[j] += widen(added[place + j]);
            narrow_all(sum, out + place, end - begin);
        }
    }
}
