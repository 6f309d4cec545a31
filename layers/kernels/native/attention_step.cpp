// The attention half of a decoder's block for one new token: see layers/kernels/attention_step.py.
//
// Letters: S sequences, d model dim, h query heads, g key and value heads, c head dim.

#include "attending.h"
#include "normed.h"
#include "products.h"

namespace {

struct Given {
    Attended shape;
    int64_t model_dim;
    float eps;
    const void *x, *scale, *qkv, *out, *cosines, *sines;
    void *keys, *values;        // the caches
    void *projected, *attended; // between the parts
};

template <typename Element>
void attention_step(const Given& given, int first, int last, void* y, int threads) {
    const Attended& shape = given.shape;
    const int64_t d = given.model_dim, queries = shape.heads * shape.head_dim;
    const Product in{shape.sequences, shape.width(), d}, out{shape.sequences, d, queries};
    const Element* x = static_cast<const Element*>(given.x);
    Element* projected = static_cast<Element*>(given.projected);
    Element* attended = static_cast<Element*>(given.attended);
    threads = useful_threads(threads, in.multiplications());
#pragma omp parallel num_threads(threads)
    for (int part = first; part <= last; ++part) switch (part) {
        case 0: {
            const auto normed = normed_rows(x, static_cast<const Element*>(given.scale), shape.sequences, d, given.eps);
            multiply<Element, Element>(in, normed.data(), static_cast<const Element*>(given.qkv), nullptr, projected);
            break;
        }
        case 1:
            attend(shape, projected, static_cast<const Element*>(given.cosines),
                   static_cast<const Element*>(given.sines), static_cast<Element*>(given.keys),
                   static_cast<Element*>(given.values), attended);
            break;
        case 2:
            multiply(out, attended, static_cast<const Element*>(given.out), x, static_cast<Element*>(y));
            break;
    }
}

}  // namespace

// y (S, d): x + attention(norm(x)), of its parts those from number `first` to `last`: 0 the norm and the first product,
// 1 the attention, 2 the last product. projected (S, (h + 2g)·c) and attended (S, h·c) keep what lies between.
extern "C" void membench_attention_step(int element, int first, int last, const void* x, const void* scale,
                                        const void* qkv, const void* out, const void* cosines, const void* sines,
                                        void* keys, void* values, void* projected, void* attended, void* y,
                                        int64_t sequences, int64_t model_dim, int64_t heads, int64_t kv_heads,
                                        int64_t head_dim, int64_t capacity, int64_t held, double eps, int threads) {
    const Given given{{sequences, heads, kv_heads, head_dim, capacity, held},
                      model_dim, float(eps), x, scale, qkv, out, cosines, sines, keys, values, projected, attended};
    FOR_ELEMENT(element, attention_step, given, first, last, y, threads)
}
