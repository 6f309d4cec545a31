// The best k sums of two score lists: see layers/kernels/top_k.py and choosing.h.

#include "choosing.h"

// halves (2, B, H, k) int32 and weights (B, H, k) of scores (H, 2, B, n).
extern "C" void membench_product_key_top_k(const float* scores, int64_t heads, int64_t tokens, int64_t count, int64_t k,
                                           int32_t* halves, float* weights, int threads) {
    const Choice given{heads, tokens, count, k};
    int32_t* second_half = halves + tokens * heads * k;
    threads = useful_threads(threads, given.multiplications());
#pragma omp parallel num_threads(threads)
    choose(given, scores, weights, 16, [&](int64_t place, int32_t first, int32_t second) {
        halves[place] = first;
        second_half[place] = second;
    });
}
