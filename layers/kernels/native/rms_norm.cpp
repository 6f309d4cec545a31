// Rows divided by the root of their mean square and scaled: see layers/kernels/rms_norm.py.
//
// Letters: R rows, d columns.

#include "dots.h"
#include "normed.h"

namespace {

template <typename Element>
void rms_norm(const void* x_, const void* scale_, int64_t rows, int64_t columns, double eps, void* out_, int threads) {
    const Element* x = static_cast<const Element*>(x_);
    const Element* scale = static_cast<const Element*>(scale_);
    threads = useful_threads(threads, 2 * rows * columns);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> widened(columns);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; ++row)
            norm_row(x + row * columns, scale, columns, float(eps), widened.data(), static_cast<Element*>(out_) + row * columns);
    }
}

template <typename Element>
void inverse_rms(const void* x_, int64_t rows, int64_t columns, double eps, float* out, int threads) {
    const Element* x = static_cast<const Element*>(x_);
    threads = useful_threads(threads, rows * columns);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
        const Element* here = x + row * columns;
        const Element* later = x + std::min(row + ROWS_AHEAD, rows - 1) * columns;
        float squares;
        dot_rows<1>(here, &here, &later, columns, &squares);
        out[row] = 1 / std::sqrt(squares / float(columns) + float(eps));
    }
}

}  // namespace

// out (R, d) of x (R, d) and scale (d,).
extern "C" void membench_rms_norm(int element, const void* x, const void* scale, int64_t rows, int64_t columns,
                                  double eps, void* out, int threads) {
    FOR_ELEMENT(element, rms_norm, x, scale, rows, columns, eps, out, threads)
}

// out (R,), fp32: one over the root of each row's mean square.
extern "C" void membench_inverse_rms(int element, const void* x, int64_t rows, int64_t columns, double eps, float* out,
                                     int threads) {
    FOR_ELEMENT(element, inverse_rms, x, rows, columns, eps, out, threads)
}
