// A decoder's block for one new token of each sequence: see layers/kernels/block_step.py.
//
// Letters: S sequences, d model dim, h query heads, g key and value heads, c head dim, f hidden.

#include "activating.h"
#include "attending.h"
#include "normed.h"

namespace {

enum Part { project = 0, attended = 1, project_back = 2, gate_and_up = 3, down = 4 };

struct Given {
    Attended shape;
    int64_t model_dim, hidden;
    float eps;
    const void *x, *attention_scale, *qkv, *out, *cosines, *sines;
    void *keys, *values;                        // the caches
    const void *ffn_scale, *gate_up, *down;
    void* between;                              // what one part leaves to the next
    void* y;                                    // with attention added; then with the FFN added too
};

// By all threads of a region, which have waited for each other when it is done.
template <typename Element> void compute(const Given& given, int part) {
    const Attended& shape = given.shape;
    const int64_t rows = shape.sequences, d = given.model_dim, queries = shape.heads * shape.head_dim;
    const Element* x = static_cast<const Element*>(given.x);
    Element* y = static_cast<Element*>(given.y);
    Element* projected = static_cast<Element*>(given.between);
    Element* heads = projected + rows * shape.width();
    Element* hidden = heads + rows * queries;
    switch (part) {
        case project: {
            const auto normed = normed_rows(x, static_cast<const Element*>(given.attention_scale), rows, d, given.eps);
            multiply<Element, Element>({rows, shape.width(), d}, normed.data(), static_cast<const Element*>(given.qkv),
                                       nullptr, projected);
            break;
        }
        case attended:
            attend(shape, projected, static_cast<const Element*>(given.cosines),
                   static_cast<const Element*>(given.sines), static_cast<Element*>(given.keys),
                   static_cast<Element*>(given.values), heads);
            break;
        case project_back:
            multiply({rows, d, queries}, heads, static_cast<const Element*>(given.out), x, y);
            break;
        case gate_and_up: {
            const auto normed = normed_rows(y, static_cast<const Element*>(given.ffn_scale), rows, d, given.eps);
            activate({rows, given.hidden, d}, normed.data(), static_cast<const Element*>(given.gate_up), hidden);
            break;
        }
        case down: multiply({rows, d, given.hidden}, hidden, static_cast<const Element*>(given.down), y, y); break;
    }
}

template <typename Element> void block_step(const Given& given, int first, int last, int threads) {
    threads = useful_threads(threads, given.shape.sequences * given.shape.width() * given.model_dim);
#pragma omp parallel num_threads(threads)
    for (int part = first; part <= last; ++part) compute<Element>(given, part);
}

// y (S, d): x + attention(norm(x)), and with a hidden width f also y + swiglu(norm(y)). between (S, (2h + 2g)·c + f)
// keeps what is projected, after it what is attended, and the hidden layer. Python packs all of it, in this order.
struct Arguments {
    const void *x, *attention_scale, *qkv, *out;
    void *keys, *values;
    const void *ffn_scale, *gate_up, *down;
    void *between, *y;
    const void *cosines, *sines;
    int64_t held, sequences, heads, kv_heads, head_dim, capacity, model_dim, hidden;
    double eps;
};

}  // namespace

// Of the parts those from number `first` to `last`.
extern "C" void membench_block_step(int element, int first, int last, const void* arguments, int threads) {
    const Arguments* all = static_cast<const Arguments*>(arguments);
    const Given given{{all->sequences, all->heads, all->kv_heads, all->head_dim, all->capacity, all->held},
                      all->model_dim, all->hidden, float(all->eps), all->x, all->attention_scale, all->qkv, all->out,
                      all->cosines, all->sines, all->keys, all->values, all->ffn_scale, all->gate_up, all->down,
                      all->between, all->y};
    FOR_ELEMENT(element, block_step, given, first, last, threads)
}
