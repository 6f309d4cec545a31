// Products of few rows with a matrix: see layers/kernels/native/few_rows.py.
//
// Letters: R rows of x, n and m the rows and columns of the matrix.

#include "products.h"

namespace {

template <typename Element>
void few_rows(const Product& given, const void* x_, const void* matrix_, bool wide, void* out, int threads) {
    const Element* x = static_cast<const Element*>(x_);
    const Element* matrix = static_cast<const Element*>(matrix_);
    threads = useful_threads(threads, given.multiplications());
#pragma omp parallel num_threads(threads)
    if (wide)
        multiply<Element, float>(given, x, matrix, nullptr, static_cast<float*>(out));
    else
        multiply<Element, Element>(given, x, matrix, nullptr, static_cast<Element*>(out));
}

}  // namespace

// out (R, n), fp32 if `wide`, else of the element, of x (R, m) and the matrix (n, m).
extern "C" void membench_few_rows(int element, const void* x, const void* matrix, int64_t rows, int64_t n, int64_t m,
                                  bool wide, void* out, int threads) {
    FOR_ELEMENT(element, few_rows, Product{rows, n, m}, x, matrix, wide, out, threads)
}
