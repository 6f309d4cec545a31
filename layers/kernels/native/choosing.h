// The best k sums of two score lists: see layers/kernels/top_k.py.
//
// Letters: H heads, B tokens, n sub-keys a half, k rows a head.
#pragma once

#include "elements.h"

struct Choice {
    int64_t heads, tokens, sub_keys, top_k;

    int64_t multiplications() const { return heads * tokens * (2 * sub_keys + 64 * top_k); }
};

// halves (2, B, H, k) and weights (B, H, k) of scores (H, 2, B, n), by the threads of a parallel region, a few of the heads
// of all tokens a turn. It is compiled once.
void choose(const Choice& given, const float* scores, int64_t tasks_a_turn, int32_t* halves, float* weights);

// An integer that is ordered as the score is: -0 as +0, and any NaN as the largest, so that it is never lost.
inline int32_t sortable(float score) {
    const int32_t bits = int32_t(bits_of(score + 0.0f));
    return score != score ? INT32_MAX : bits ^ ((bits >> 31) & 0x7fffffff);
}
