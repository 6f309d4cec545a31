// A memory layer for few tokens: see layers/kernels/memory_step.py.
//
// Letters: B tokens, d model dim, D value dim, L = H·k rows a token, N rows.

#include "bagging.h"
#include "retrieving.h"

namespace {

enum Part { bag = RETRIEVAL_PARTS, gate = bag + 1, output = bag + 2 };  // without a gate its number is output's

struct Given {
    Tokens tokens;
    Retrieval retrieval;
    int64_t value_dim;
    const void* table;
    const float* row_scales;
    const int64_t* rows;
    const void *gate, *output;
    void *summed, *gated;
};

template <typename Element, typename Row> void sum_bags(const Given& given) {
    const Retrieval& of = given.retrieval;
    const Bags bags{given.row_scales, given.rows, of.weights, of.tokens, of.heads * of.top_k, given.value_dim};
    for_bags(bags, static_cast<const Row*>(given.table), LEAST_SLICE_OF_FEW,
             [&](float* sum, int64_t token, int64_t first, int64_t columns) {
                 if (given.output)
                     narrow_all(sum, static_cast<Element*>(given.summed) + token * given.value_dim + first, columns);
                 else
                     given.tokens.finish<Element>(sum, token, first, columns);
             });
}

// By all threads of a region, which have waited for each other when it is done.
template <typename Element, typename Row> void compute(const Given& given, int part) {
    const Retrieval& of = given.retrieval;
    const int64_t tokens = of.tokens, d = of.model_dim, width = given.value_dim;
    const Element* summed = static_cast<const Element*>(given.summed);
    Element* gated = static_cast<Element*>(given.gated);
    switch (given.gate || part < gate ? part : output) {
        case bag: sum_bags<Element, Row>(given); break;
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

template <typename Element, typename Row> void steps(const Given& given, int first, int last, int threads) {
    const Retrieval& of = given.retrieval;
    const int64_t products = (given.gate != nullptr) + (given.output != nullptr);
    const int64_t read = of.heads * of.top_k + products * of.model_dim;
    threads = useful_threads(threads, of.multiplications() + of.tokens * read * given.value_dim);
#pragma omp parallel num_threads(threads)
    for (int part = first; part <= last; ++part) compute<Element, Row>(given, part);
}

template <typename Element> void memory_step(const Given& given, int row, int first, int last, int threads) {
    switch (row) {
        case 3: return steps<Element, Int8>(given, first, last, threads);
        case 4: return steps<Element, Float8>(given, first, last, threads);
        default: return steps<Element, Element>(given, first, last, threads);
    }
}

// Python packs all of it, in this order. `chosen` are the rows that are read instead of the layer's own, or null.
struct Arguments {
    Tokens tokens;
    Retrieval retrieval;
    const void *table, *row_scales, *chosen, *gate, *output;
    void *summed, *gated;
    int64_t value_dim;
};

}  // namespace

// Of the parts those from number `first` to `last`. Elements of rows are numbered as `bags` numbers them.
extern "C" void membench_memory_step(int element, int row, int first, int last, const Arguments* all, int threads) {
    const void* rows = all->chosen ? all->chosen : all->retrieval.rows;
    const Given given{all->tokens, all->retrieval, all->value_dim, all->table,
                      static_cast<const float*>(all->row_scales), static_cast<const int64_t*>(rows), all->gate,
                      all->output, all->summed, all->gated};
    FOR_ELEMENT(element, memory_step, given, row, first, last, threads)
}
