// Losses of logits, and their gradient: see layers/kernels/cross_entropy.py.
//
// Letters: R rows, V vocabulary.

#include "exponentials.h"
#include "rows.h"

namespace {

struct Shape {
    int64_t rows, vocabulary;

    int useful(int threads) const { return useful_threads(threads, 8 * rows * vocabulary); }  // an exponential is as many
};

// What is taken from a logit for the logarithm of its probability, the larger part first: the whole would lose digits.
struct Normalizer {
    float largest, rest;
};

template <typename Element>
void losses(const Shape& shape, const void* logits_, const int64_t* targets, Normalizer* normalizers, float* out, int threads) {
    const int64_t V = shape.vocabulary;
#pragma omp parallel for num_threads(shape.useful(threads)) schedule(static)
    for (int64_t row = 0; row < shape.rows; ++row) {
        const Element* logits = static_cast<const Element*>(logits_) + row * V;
        float largest = widen(logits[0]), sum = 0;
#pragma omp simd reduction(max : largest)
        for (int64_t j = 0; j < V; ++j) largest = std::max(largest, widen(logits[j]));
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < V; ++j) sum += exp_of(widen(logits[j]) - largest);
        normalizers[row] = {largest, std::log(sum)};
        out[row] = normalizers[row].rest - (widen(logits[targets[row]]) - largest);
    }
}

// A row whose loss nobody asks for is no work: its gradient is zero.
template <typename Element>
void losses_back(const Shape& shape, const float* gradient, const void* logits_, const int64_t* targets,
                 const Normalizer* normalizers, void* out_, int threads) {
    const int64_t V = shape.vocabulary;
#pragma omp parallel for num_threads(shape.useful(threads)) schedule(static)
    for (int64_t row = 0; row < shape.rows; ++row) {
        const Element* logits = static_cast<const Element*>(logits_) + row * V;
        Element* out = static_cast<Element*>(out_) + row * V;
        const float given = gradient[row];
        if (given == 0) {
            std::fill_n(out, V, Element{});
            continue;
        }
        const Normalizer by = normalizers[row];
#pragma omp simd
        for (int64_t j = 0; j < V; ++j) out[j] = narrow<Element>(given * exp_of(widen(logits[j]) - by.largest - by.rest));
        const int64_t target = targets[row];
        out[target] = narrow<Element>(given * (exp_of(widen(logits[target]) - by.largest - by.rest) - 1));
    }
}

}  // namespace

// out (R,) and normalizers (R, 2), fp32, of logits (R, V) and targets (R,).
extern "C" void membench_cross_entropy(int element, const void* logits, const int64_t* targets, int64_t rows,
                                       int64_t vocabulary, void* normalizers, float* out, int threads) {
    FOR_ELEMENT(element, losses, {rows, vocabulary}, logits, targets, static_cast<Normalizer*>(normalizers), out, threads)
}

// out (R, V) of the losses' gradient (R,), fp32, and what they were computed from.
extern "C" void membench_cross_entropy_backward(int element, const float* gradient, const void* logits,
                                                const int64_t* targets, const void* normalizers, int64_t rows,
                                                int64_t vocabulary, void* out, int threads) {
    FOR_ELEMENT(element, losses_back, {rows, vocabulary}, gradient, logits, targets,
                static_cast<const Normalizer*>(normalizers), out, threads)
}
