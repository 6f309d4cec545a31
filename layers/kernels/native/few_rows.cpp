// Products of few rows with a matrix: see layers/kernels/native/few_rows.py.
//
// The matrix is read from memory once, as it lies there, some of its rows at a time: all rows of x use them while they
// are in the first-level cache. No result depends on the number of threads.
//
// Letters: R rows of x, n and m the rows and columns of the matrix.

#include <vector>

#include "dots.h"

namespace {

constexpr int64_t MATRIX_ROWS = 32;  // of a task, several of TOGETHER: long stretches, and enough tasks for small matrices

struct Product {
    int64_t rows, n, m;
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

template <typename Element>
void few_rows(const Product& given, const void* x_, const void* matrix_, bool wide, void* out, int threads) {
    const Element* x = static_cast<const Element*>(x_);
    const Element* matrix = static_cast<const Element*>(matrix_);
    threads = useful_threads(threads, given.rows * given.n * given.m);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> sums(given.rows * MATRIX_ROWS);
#pragma omp for schedule(dynamic, 1)
        for (int64_t begin = 0; begin < given.n; begin += MATRIX_ROWS) {
            const int64_t end = std::min(begin + MATRIX_ROWS, given.n);
            int64_t at = begin;
            for (; at + TOGETHER <= end; at += TOGETHER)
                dot_neurons<TOGETHER>(given, x, matrix, at, sums.data() + at - begin);
            for (; at < end; ++at) dot_neurons<1>(given, x, matrix, at, sums.data() + at - begin);
            for (int64_t row = 0; row < given.rows; ++row) {
                const float* sum = sums.data() + row * MATRIX_ROWS;
                const int64_t place = row * given.n + begin;
                if (wide)
                    std::copy_n(sum, end - begin, static_cast<float*>(out) + place);
                else
                    narrow_all(sum, static_cast<Element*>(out) + place, end - begin);
            }
        }
    }
}

}  // namespace

// out (R, n), fp32 if `wide`, else of the element, of x (R, m) and the matrix (n, m).
extern "C" void membench_few_rows(int element, const void* x, const void* matrix, int64_t rows, int64_t n, int64_t m,
                                  bool wide, void* out, int threads) {
    FOR_ELEMENT(element, few_rows, Product{rows, n, m}, x, matrix, wide, out, threads)
}
