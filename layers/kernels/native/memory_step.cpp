// A memory layer for few tokens: see layers/kernels/memory_step.py.
//
// Letters: B tokens, d model dim, D value dim, L = H·k rows a token, N rows.

#include "bagging.h"
#include "exponentials.h"
#include "retrieving.h"

namespace {

enum Part { bag = RETRIEVAL_PARTS, gate = bag + 1, output = bag + 2 };  // without a gate its number is output's

// `chosen` are the rows that are read instead of the layer's own, or null.
struct Given {
    Tokens tokens;
    Retrieval retrieval;
    int64_t value_dim;
    const void *table, *row_scales, *chosen, *gate, *output;
    void *summed, *gated;
    int64_t row;  // the number of the rows' element, as `bags` numbers them
};

template <typename Element, typename Row> void sum_bags(const Given& given) {
    const Retrieval& of = given.retrieval;
    const std::vector<int64_t> rows = rows_of(of, given.chosen);
    const Bags bags{static_cast<const float*>(given.row_scales), rows.data(), of.weights, of.tokens, of.heads * of.top_k, given.value_dim};
    for_bags(bags, static_cast<const Row*>(given.table), LEAST_SLICE_OF_FEW,
             [&](float* sum, int64_t token, int64_t first, int64_t columns) {
                 if (given.output)
                     narrow_all(sum, static_cast<Element*>(given.summed) + token * given.value_dim + first, columns);
                 else
                     given.tokens.finish<Element>(sum, token, first, columns);
             });
}

template <typename Element> void sum_bags_of(const Given& given) {
    switch (given.row) {
        case 3: return sum_bags<Element, Int8>(given);
        case 4: return sum_bags<Element, Float8>(given);
        default: return sum_bags<Element, Element>(given);
    }
}

// By all threads of a region, which have waited for each other when it is done.
template <typename Element> void compute(const Given& given, int part) {
    const Retrieval& of = given.retrieval;
    const int64_t tokens = of.tokens, d = of.model_dim, width = given.value_dim;
    const Element* summed = static_cast<const Element*>(given.summed);
    Element* gated = static_cast<Element*>(given.gated);
    switch (given.gate || part < gate ? part : output) {
        case bag: sum_bags_of<Element>(given); break;
        case gate:
            given.tokens.normed<Element>([&](const Element* x) {
                for_products({tokens, width, d}, x, static_cast<const Element*>(given.gate),
                             [&](float* sums, int64_t token, int64_t begin, int64_t count) {
                                 const int64_t place = token * width + begin;
#pragma omp simd
                                 for (int64_t j = 0; j < count; ++j)
                                     sums[j] *= sigmoid(sums[j]) * widen(summed[place + j]);
                                 narrow_all(sums, gated + place, count);
                             });
            });
            break;
        case output:
            for_products({tokens, d, width}, given.gate ? gated : summed, static_cast<const Element*>(given.output),
                         [&](float* sums, int64_t token, int64_t begin, int64_t count) {
                             given.tokens.finish<Element>(sums, token, begin, count);
                         });
            break;
        default: retrieve<Element>(of, given.tokens, part);
    }
}

template <typename Element> void memory_step(const Given& given, int first, int last, int threads) {
    const Retrieval& of = given.retrieval;
    const int64_t products = (given.gate != nullptr) + (given.output != nullptr);
    const int64_t read = of.heads * of.top_k + products * of.model_dim;
    threads = useful_threads(threads, of.multiplications() + of.tokens * read * given.value_dim);
#pragma omp parallel num_threads(threads)
    for (int part = first; part <= last; ++part) compute<Element>(given, part);
}

}  // namespace

// Of the parts those from number `first` to `last`. Python packs what is given.
extern "C" void membench_memory_step(int element, int first, int last, const void* given, int threads) {
    FOR_ELEMENT(element, memory_step, *static_cast<const Given*>(given), first, last, threads)
}
