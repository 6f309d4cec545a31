// What lies between the products of a SwiGLU: see layers/kernels/swiglu.py.
//
// Letters: R rows, f hidden.

#include <vector>

#include "exponentials.h"
#include "rows.h"

namespace {

struct Shape {
    int64_t rows, hidden;

    int useful(int threads) const { return useful_threads(threads, 16 * rows * hidden); }  // an exponential is as many
};

template <typename Element> void activate(const Shape& shape, const void* gate_up_, void* out_, int threads) {
    const int64_t f = shape.hidden;
#pragma omp parallel for num_threads(shape.useful(threads)) schedule(static)
    for (int64_t row = 0; row < shape.rows; ++row) {
        const Element *gate = static_cast<const Element*>(gate_up_) + 2 * row * f, *up = gate + f;
        Element* out = static_cast<Element*>(out_) + row * f;
#pragma omp simd
        for (int64_t j = 0; j < f; ++j) {
            const float x = widen(gate[j]);
            out[j] = narrow<Element>(x * sigmoid(x) * widen(up[j]));
        }
    }
}

// With weights (R,) also what they were multiplied with, summed over a row's gradient.
template <typename Element>
void activate_back(const Shape& shape, const void* gate_up_, const void* gradient_, const void* weights_, void* hidden_,
                   void* of_gate_up_, float* of_weights, int threads) {
    const int64_t f = shape.hidden;
    const Element* weights = static_cast<const Element*>(weights_);
#pragma omp parallel for num_threads(shape.useful(threads)) schedule(static)
    for (int64_t row = 0; row < shape.rows; ++row) {
        const Element *gate = static_cast<const Element*>(gate_up_) + 2 * row * f, *up = gate + f;
        const Element* gradient = static_cast<const Element*>(gradient_) + row * f;
        Element* hidden = static_cast<Element*>(hidden_) + row * f;
        Element *of_gate = static_cast<Element*>(of_gate_up_) + 2 * row * f, *of_up = of_gate + f;
        const float weight = weights ? widen(weights[row]) : 1.0f;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < f; ++j) {
            const float x = widen(gate[j]), u = widen(up[j]), given = widen(gradient[j]);
            const float share = sigmoid(x), silu = x * share, of_product = given * weight;
            sum += given * silu * u;
            hidden[j] = narrow<Element>(silu * u * weight);
            of_up[j] = narrow<Element>(of_product * silu);
            of_gate[j] = narrow<Element>(of_product * u * (share + silu * (1 - share)));
        }
        if (weights) of_weights[row] = sum;
    }
}

}  // namespace

// out (R, f) of gate_up (R, 2f), gate first.
extern "C" void membench_activate(int element, const void* gate_up, int64_t rows, int64_t hidden, void* out, int threads) {
    FOR_ELEMENT(element, activate, {rows, hidden}, gate_up, out, threads)
}

// hidden (R, f), of_gate_up (R, 2f) and of_weights (R,); weights (R,) may be null, and of_weights then is too.
extern "C" void membench_activate_backward(int element, const void* gate_up, const void* gradient, const void* weights,
                                           int64_t rows, int64_t hidden, void* out, void* of_gate_up, float* of_weights,
                                           int threads) {
    FOR_ELEMENT(element, activate_back, {rows, hidden}, gate_up, gradient, weights, out, of_gate_up, of_weights, threads)
}
