// The SwiGLU half of a decoder's block for few rows: see layers/kernels/swiglu_step.py.
//
// Letters: R rows, d model dim, f hidden.

#include "normed.h"
#include "products.h"

namespace {

struct Given {
    int64_t rows, model_dim, hidden;
    float eps;
    const void *x, *scale, *gate_up, *down;
    void* between;
};

inline float silu(float value) { return value / (1 + std::exp(-value)); }

// between (R, f): silu(gate) * up of x (R, d) and the matrix (2f, d), gate first. A task has as many rows of both.
template <typename Element>
void activate(const Given& given, const Element* x, const Element* matrix, Element* between) {
    const int64_t f = given.hidden, half = MATRIX_ROWS / 2;
    const Product product{given.rows, 2 * f, given.model_dim};
    std::vector<float> gates(given.rows * MATRIX_ROWS), ups(given.rows * MATRIX_ROWS);
#pragma omp for schedule(dynamic, 1)
    for (int64_t begin = 0; begin < f; begin += half) {
        const int64_t end = std::min(begin + half, f);
        dot_task(product, x, matrix, begin, end, gates.data());
        dot_task(product, x, matrix, f + begin, f + end, ups.data());
        for (int64_t row = 0; row < given.rows; ++row) {
            float* gate = gates.data() + row * MATRIX_ROWS;
            const float* up = ups.data() + row * MATRIX_ROWS;
            for (int64_t j = 0; j < end - begin; ++j) gate[j] = silu(gate[j]) * up[j];
            narrow_all(gate, between + row * f + begin, end - begin);
        }
    }
}

template <typename Element>
void swiglu_step(const Given& given, int first, int last, void* y, int threads) {
    const Product down{given.rows, given.model_dim, given.hidden};
    const Element* x = static_cast<const Element*>(given.x);
    Element* between = static_cast<Element*>(given.between);
    threads = useful_threads(threads, down.multiplications());
#pragma omp parallel num_threads(threads)
    for (int part = first; part <= last; ++part) switch (part) {
        case 0: {
            const auto normed = normed_rows(x, static_cast<const Element*>(given.scale), given.rows, given.model_dim, given.eps);
            activate(given, normed.data(), static_cast<const Element*>(given.gate_up), between);
            break;
        }
        case 1:
            multiply(down, between, static_cast<const Element*>(given.down), x, static_cast<Element*>(y));
            break;
    }
}

}  // namespace

// y (R, d): x + swiglu(norm(x)), of its parts those from number `first` to `last`: 0 the norm, the first product and the
// activation, 1 the last product. between (R, f) keeps what lies between.
extern "C" void membench_swiglu_step(int element, int first, int last, const void* x, const void* scale,
                                     const void* gate_up, const void* down, void* between, void* y, int64_t rows,
                                     int64_t model_dim, int64_t hidden, double eps, int threads) {
    const Given given{rows, model_dim, hidden, float(eps), x, scale, gate_up, down, between};
    FOR_ELEMENT(element, swiglu_step, given, first, last, y, threads)
}
