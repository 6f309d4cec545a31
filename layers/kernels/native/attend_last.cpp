// Attention of one new token of each sequence over a KV cache: see layers/kernels/attend_last.py.

#include "attending.h"

namespace {

template <typename Element>
void attend_last(const Attended& shape, const void* projected, const void* cosines, const void* sines, void* keys,
                 void* values, void* out, int threads) {
    threads = useful_threads(threads, 2 * shape.sequences * shape.heads * shape.head_dim * (shape.held + 1));
#pragma omp parallel num_threads(threads)
    attend(shape, static_cast<const Element*>(projected), static_cast<const Element*>(cosines),
           static_cast<const Element*>(sines), static_cast<Element*>(keys), static_cast<Element*>(values),
           static_cast<Element*>(out));
}

}  // namespace

// out (S, h·c) of projected (S, (h + 2g)·c), cosines and sines (c,); keys and values (S, g, capacity, c) get the token's.
extern "C" void membench_attend_last(int element, const void* projected, const void* cosines, const void* sines,
                                     void* keys, void* values, int64_t sequences, int64_t heads, int64_t kv_heads,
                                     int64_t head_dim, int64_t capacity, int64_t held, void* out, int threads) {
    const Attended shape{sequences, heads, kv_heads, head_dim, capacity, held};
    FOR_ELEMENT(element, attend_last, shape, projected, cosines, sines, keys, values, out, threads)
}
