// Scores of few queries against product keys: see layers/kernels/native/few_scores.py and scoring.h.

#include "scoring.h"

namespace {

template <typename Element>
void few_scores(Scored given, const float* queries, const void* keys_, int threads) {
    const Element* keys = static_cast<const Element*>(keys_);
    const int64_t c = given.columns, vectors = given.tokens * given.halves;
    std::vector<float> arranged(vectors * c);
    for (int64_t vector = 0; vector < vectors; ++vector)
        arrange<Element>(queries + vector * c, c, arranged.data() + vector * c);
    given.queries = arranged.data();
    threads = useful_threads(threads, given.multiplications());
#pragma omp parallel num_threads(threads)
    score_all(given, keys);
}

}  // namespace

// scores (S, B, n) of queries (B, S, c) and keys (S, n, c); if `normalized`, times inverse_rms (S, n), which is written.
extern "C" void membench_few_scores(int element, const float* queries, const void* keys, int64_t tokens, int64_t halves,
                                    int64_t sub_keys, int64_t columns, bool normalized, double eps, float* scores,
                                    float* inverse_rms, int threads) {
    const Scored given{tokens, halves, sub_keys, columns, normalized, float(eps), nullptr, scores, inverse_rms};
    FOR_ELEMENT(element, few_scores, given, queries, keys, threads)
}
