// A SwiGLU beside a sparse layer, for few tokens: see layers/kernels/companion_step.py.
//
// Letters: B tokens, d model dim, f hidden.

#include "activating.h"
#include "tokens.h"

namespace {

enum Part { up = 0, down = 1 };

// y of tokens: what they get beside this, (B, d), and swiglu of x or of its norm. Python packs all of it, in this order.
struct Given {
    Tokens tokens;
    int64_t hidden;
    const void *gate_up, *down, *beside;  // (2f, d), gate first, (d, f) and (B, d)
    void* between;                        // (B, f)

    Activation activation() const { return {tokens.count, hidden, tokens.model_dim}; }
};

// By all threads of a region, which have waited for each other when it is done.
template <typename Element> void compute(const Given& given, int part) {
    Element* between = static_cast<Element*>(given.between);
    if (part == up)
        given.tokens.normed<Element>([&](const Element* x) {
            activate(given.activation(), x, static_cast<const Element*>(given.gate_up), between);
        });
    else
        multiply({given.tokens.count, given.tokens.model_dim, given.hidden}, between,
                 static_cast<const Element*>(given.down), static_cast<const Element*>(given.beside),
                 static_cast<Element*>(given.tokens.y));
}

template <typename Element> void companion_step(const Given& given, int first, int last, int threads) {
    threads = useful_threads(threads, given.activation().product().multiplications());
#pragma omp parallel num_threads(threads)
    for (int part = first; part <= last; ++part) compute<Element>(given, part);
}

}  // namespace

// Of the parts those from number `first` to `last`.
extern "C" void membench_companion_step(int element, int first, int last, const void* given, int threads) {
    FOR_ELEMENT(element, companion_step, *static_cast<const Given*>(given), first, last, threads)
}
