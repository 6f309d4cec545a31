// The hidden layer of a SwiGLU for few tokens: products whose gates are applied while they are in registers and caches.
//
// Letters: R rows of x, d model dim, f hidden.
#pragma once

#include "exponentials.h"
#include "products.h"

// Stretches of a hidden layer (R, f) of x (R, d) and a matrix (2f, d), gate first: as long as they can be for each thread
// to get some of them.
struct Activation {
    int64_t rows, f, d;

    Product product() const { return {rows, 2 * f, d}; }

    // A stretch has as many rows of both halves of the matrix.
    template <typename Element> int64_t neurons_a_task() const {
        return product().rows_a_task<Element>() / 2 / TOGETHER * TOGETHER;
    }
};

// hidden (R, f) from number `begin` to `end`: silu(gate) * up. sums (2, R, pitch) are for its own use.
template <typename Element>
inline void activate_task(const Activation& given, const Element* x, const Element* matrix, int64_t begin, int64_t end,
                          float* sums, int64_t pitch, Element* hidden) {
    float *gates = sums, *ups = sums + given.rows * pitch;
    dot_task(given.product(), x, matrix, begin, end, gates, pitch);
    dot_task(given.product(), x, matrix, given.f + begin, given.f + end, ups, pitch);
    for (int64_t row = 0; row < given.rows; ++row) {
        float* gate = gates + row * pitch;
        const float* up = ups + row * pitch;
#pragma omp simd
        for (int64_t j = 0; j < end - begin; ++j) gate[j] *= sigmoid(gate[j]) * up[j];
        narrow_all(gate, hidden + row * given.f + begin, end - begin);
    }
}

// All of it, by the threads of a parallel region.
template <typename Element>
void activate(const Activation& given, const Element* x, const Element* matrix, Element* hidden) {
    const int64_t most = given.neurons_a_task<Element>();
    std::vector<float> sums(2 * given.rows * most);
#pragma omp for schedule(dynamic, 1)
    for (int64_t begin = 0; begin < given.f; begin += most)
        activate_task(given, x, matrix, begin, std::min(begin + most, given.f), sums.data(), most, hidden);
}
