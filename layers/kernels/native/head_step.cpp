// A decoder's last norm and head for few tokens: see layers/kernels/head_step.py.
//
// Letters: R rows, d model dim, V vocabulary.

#include "normed.h"
#include "products.h"

namespace {

// logits (R, V) of x (R, d), scale (d,) and head (V, d). Python packs all of it, in this order.
struct Given {
    const void *x, *scale, *head;
    void* logits;
    int64_t rows, vocabulary, model_dim;
    double eps;
};

template <typename Element> void head_step(const Given& given, int threads) {
    const Product product{given.rows, given.vocabulary, given.model_dim};
    threads = useful_threads(threads, product.multiplications());
#pragma omp parallel num_threads(threads)
    {
        const auto normed = normed_rows(static_cast<const Element*>(given.x), static_cast<const Element*>(given.scale),
                                        given.rows, given.model_dim, float(given.eps));
        multiply<Element, Element>(product, normed.data(), static_cast<const Element*>(given.head), nullptr,
                                   static_cast<Element*>(given.logits));
    }
}

}  // namespace

// It has one part.
extern "C" void membench_head_step(int element, int, int, const void* arguments, int threads) {
    FOR_ELEMENT(element, head_step, *static_cast<const Given*>(arguments), threads)
}
