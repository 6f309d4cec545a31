// A PEER layer for few tokens: see layers/kernels/peer_step.py.
//
// Letters: B tokens, d model dim, L = H·k experts a token, N experts.

#include "bagging.h"
#include "retrieving.h"
#include "row_dots.h"

namespace {

constexpr int64_t LEAST_EXPERTS_A_TASK = 16;

// `chosen` are the experts that are used instead of the layer's own, or null.
struct Given {
    Tokens tokens;
    Retrieval retrieval;
    const void *down, *up, *chosen;
    float* hidden;  // (B, L)
};

// x/2 (1 + erf(x / sqrt 2))
inline float gelu(float x) { return 0.5f * x * (1 + std::erf(x * 0.70710678f)); }

template <typename Element> void run_experts(const Given& given) {
    const Retrieval& of = given.retrieval;
    const int64_t read = of.heads * of.top_k, count = of.tokens * read;
    const std::vector<int64_t> rows = rows_of(of, given.chosen);
    const Lookups lookups{rows.data(), of.tokens, read, of.model_dim};
    const int64_t fair = count / (2 * omp_get_num_threads());
    given.tokens.normed<Element>([&](const Element* x) {
        dot_all_lookups(lookups, static_cast<const Element*>(given.down), x,
                        std::clamp(fair, LEAST_EXPERTS_A_TASK, RUNS_A_TASK), given.hidden);
    });
    std::vector<float> scaled(count);  // by each thread for itself: that is sooner done than waited for
    for (int64_t i = 0; i < count; ++i) scaled[i] = of.weights[i] * gelu(given.hidden[i]);
    const Bags bags{nullptr, rows.data(), scaled.data(), of.tokens, read, of.model_dim};
    for_bags(bags, static_cast<const Element*>(given.up), LEAST_SLICE_OF_FEW,
             [&](float* sum, int64_t token, int64_t first, int64_t columns) {
                 given.tokens.finish<Element>(sum, token, first, columns);
             });
}

template <typename Element> void peer_step(const Given& given, int first, int last, int threads) {
    const Retrieval& of = given.retrieval;
    threads = useful_threads(threads, of.multiplications() + 2 * of.tokens * of.heads * of.top_k * of.model_dim);
#pragma omp parallel num_threads(threads)
    for (int part = first; part <= last; ++part) {
        if (part == RETRIEVAL_PARTS)
            run_experts<Element>(given);
        else
            retrieve<Element>(of, given.tokens, part);
    }
}

}  // namespace

// Of the parts those from number `first` to `last`. Python packs what is given.
extern "C" void membench_peer_step(int element, int first, int last, const void* given, int threads) {
    FOR_ELEMENT(element, peer_step, *static_cast<const Given*>(given), first, last, threads)
}
