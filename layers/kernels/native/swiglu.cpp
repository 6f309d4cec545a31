// What lies between the products of a SwiGLU: see layers/kernels/swiglu.py and gated.py.
//
// Letters: R rows, f hidden, p numbers from one row of gates to the next, and of what they multiply.

#include <vector>

#include "exponentials.h"
#include "rows.h"

namespace {

struct Shape {
    int64_t rows, pitch, hidden;

    int useful(int threads) const { return useful_threads(threads, 16 * rows * hidden); }  // an exponential is as many
};

template <typename Element>
void activate(const Shape& shape, const void* gates, const void* ups, void* out_, int threads) {
    const int64_t f = shape.hidden;
#pragma omp parallel for num_threads(shape.useful(threads)) schedule(static)
    for (int64_t row = 0; row < shape.rows; ++row) {
        const Element* gate = static_cast<const Element*>(gates) + row * shape.pitch;
        const Element* up = static_cast<const Element*>(ups) + row * shape.pitch;
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
void activate_back(const Shape& shape, const void* gates, const void* ups, const void* gradient_, const void* weights_,
                   void* hidden_, void* of_gates, void* of_ups, float* of_weights, int threads) {
    const int64_t f = shape.hidden;
    const Element* weights = static_cast<const Element*>(weights_);
#pragma omp parallel num_threads(shape.useful(threads))
    {
        std::vector<Element> unwanted(hidden_ ? 0 : f);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < shape.rows; ++row) {
            const Element* gate = static_cast<const Element*>(gates) + row * shape.pitch;
            const Element* up = static_cast<const Element*>(ups) + row * shape.pitch;
            const Element* gradient = static_cast<const Element*>(gradient_) + row * f;
            Element* hidden = hidden_ ? static_cast<Element*>(hidden_) + row * f : unwanted.data();
            Element* of_gate = static_cast<Element*>(of_gates) + row * shape.pitch;
            Element* of_up = static_cast<Element*>(of_ups) + row * shape.pitch;
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
}

}  // namespace

// out (R, f) of gates and ups (R, f), rows p apart.
extern "C" void membench_activate(int element, const void* gates, const void* ups, int64_t rows, int64_t pitch,
                                  int64_t hidden, void* out, int threads) {
    FOR_ELEMENT(element, activate, {rows, pitch, hidden}, gates, ups, out, threads)
}

// out and gradient (R, f), of_gates and of_ups (R, f) of rows p apart, of_weights (R,). Weights (R,) may be null, and
// of_weights then is too; so may out be.
extern "C" void membench_activate_backward(int element, const void* gates, const void* ups, const void* gradient,
                                           const void* weights, int64_t rows, int64_t pitch, int64_t hidden, void* out,
                                           void* of_gates, void* of_ups, float* of_weights, int threads) {
    FOR_ELEMENT(element, activate_back, {rows, pitch, hidden}, gates, ups, gradient, weights, out, of_gates, of_ups,
                of_weights, threads)
}
