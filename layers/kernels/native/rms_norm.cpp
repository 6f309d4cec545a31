// Rows divided by the root of their mean square and scaled: see layers/kernels/rms_norm.py.
//
// Letters: R rows, d columns, G scales that take turns.

#include "dots.h"
#include "normed.h"

namespace {

constexpr int64_t ROWS_A_SUM = 32;  // of a scale's gradient, which is summed part by part whatever the threads

struct Normed {
    int64_t rows, columns, scales;
    float eps;
};

template <typename Element>
void rms_norm(const Normed& given, const void* x_, const void* scale_, void* out_, int threads) {
    const int64_t columns = given.columns;
    const Element* x = static_cast<const Element*>(x_);
    const Element* scale = static_cast<const Element*>(scale_);
    Element* out = static_cast<Element*>(out_);
    threads = useful_threads(threads, 2 * given.rows * columns);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> widened(columns);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < given.rows; ++row)
            norm_row(x + row * columns, scale + row % given.scales * columns, columns, given.eps, widened.data(),
                     out + row * columns);
    }
}

// With r one over the root of a row's mean square and g = s·dy: dx = r·g - x·(r³/d)·(g·x), and ds sums dy·x·r. Adds to
// `of_scale` (d,); `wide` and `scaled` (d,) are for its own use.
template <typename Element>
inline void back_row(const Element* x, const Element* scale, const Element* gradient, int64_t columns, float eps, float* wide,
                     float* scaled, Element* of_x, float* of_scale) {
    float squares = 0, along = 0;
#pragma omp simd reduction(+ : squares, along)
    for (int64_t j = 0; j < columns; ++j) {
        wide[j] = widen(x[j]);
        scaled[j] = widen(gradient[j]) * widen(scale[j]);
        squares += wide[j] * wide[j];
        along += scaled[j] * wide[j];
    }
    const float factor = 1 / std::sqrt(squares / float(columns) + eps);
    const float back = along * factor * factor * factor / float(columns);
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
        of_scale[j] += widen(gradient[j]) * wide[j] * factor;
        scaled[j] = factor * scaled[j] - back * wide[j];
    }
    narrow_all(scaled, of_x, columns);
}

template <typename Element>
void rms_norm_back(const Normed& given, const void* x_, const void* scale_, const void* gradient_, void* of_x_,
                   void* of_scale_, int threads) {
    const int64_t rows = given.rows, columns = given.columns, width = given.scales * columns;
    const Element* x = static_cast<const Element*>(x_);
    const Element* scale = static_cast<const Element*>(scale_);
    const Element* gradient = static_cast<const Element*>(gradient_);
    Element* of_x = static_cast<Element*>(of_x_);
    const int64_t parts = (rows + ROWS_A_SUM - 1) / ROWS_A_SUM;
    std::vector<float> of_scale((parts + 1) * width);
    threads = useful_threads(threads, 4 * rows * columns);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> wide(columns), scaled(columns);
#pragma omp for schedule(static)
        for (int64_t part = 0; part < parts; ++part)
            for (int64_t row = part * ROWS_A_SUM; row < std::min(rows, (part + 1) * ROWS_A_SUM); ++row) {
                const int64_t turn = row % given.scales * columns, at = row * columns;
                back_row(x + at, scale + turn, gradient + at, columns, given.eps, wide.data(), scaled.data(), of_x + at,
                         of_scale.data() + (part + 1) * width + turn);
            }
    }
    for (int64_t part = 1; part <= parts; ++part) add_scaled(of_scale.data(), 1.0f, of_scale.data() + part * width, width);
    narrow_all(of_scale.data(), static_cast<Element*>(of_scale_), width);
}

template <typename Element>
void inverse_rms(const void* x_, int64_t rows, int64_t columns, double eps, float* out, int threads) {
    const Element* x = static_cast<const Element*>(x_);
    threads = useful_threads(threads, rows * columns);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t begin = 0; begin < rows; begin += TOGETHER) {
        const Element* here[TOGETHER];
        const Element* later[TOGETHER];
        for (int64_t j = 0; j < TOGETHER; ++j) {
            here[j] = x + std::min(begin + j, rows - 1) * columns;
            later[j] = x + std::min(begin + j + ROWS_AHEAD, rows - 1) * columns;
        }
        float squares[TOGETHER];
        square_rows<TOGETHER>(here, AskedFor<Element>{later}, columns, squares);
        for (int64_t j = 0; j < std::min(TOGETHER, rows - begin); ++j)
            out[begin + j] = 1 / std::sqrt(squares[j] / float(columns) + float(eps));
    }
}

}  // namespace

// out (R, d) of x (R, d) and scales (G, d), of which row r has number r % G.
extern "C" void membench_rms_norm(int element, const void* x, const void* scale, int64_t rows, int64_t columns,
                                  int64_t scales, double eps, void* out, int threads) {
    const Normed given{rows, columns, scales, float(eps)};
    FOR_ELEMENT(element, rms_norm, given, x, scale, out, threads)
}

// of_x (R, d) and of_scale (G, d) of the same, and of the gradient (R, d) of what was normed.
extern "C" void membench_rms_norm_backward(int element, const void* x, const void* scale, const void* gradient, int64_t rows,
                                           int64_t columns, int64_t scales, double eps, void* of_x, void* of_scale,
                                           int threads) {
    const Normed given{rows, columns, scales, float(eps)};
    FOR_ELEMENT(element, rms_norm_back, given, x, scale, gradient, of_x, of_scale, threads)
}

// out (R,), fp32: one over the root of each row's mean square.
extern "C" void membench_inverse_rms(int element, const void* x, int64_t rows, int64_t columns, double eps, float* out,
                                     int threads) {
    FOR_ELEMENT(element, inverse_rms, x, rows, columns, eps, out, threads)
}
