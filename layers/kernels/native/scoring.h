// Scores of few queries against product keys: see layers/kernels/native/few_scores.py.
//
// Letters: B tokens, S halves of all heads, n sub-keys of a half, c columns.
#pragma once

#include <vector>

#include "dots.h"

constexpr int64_t KEY_BYTES_A_TASK = 98304;  // what is asked for beyond a task's end, its thread does not read

struct Scored {
    int64_t tokens, halves, sub_keys, columns;
    bool normalized;
    float eps;
    const float* queries;  // (B, S, c), arranged
    float* scores;         // (S, B, n)
    float* inverse_rms;    // (S, n)

    int64_t multiplications() const { return tokens * halves * sub_keys * columns; }
};

// `KEYS` sub-keys of a half from number `at` on: all tokens' products with them while they are in the first-level cache.
template <int KEYS, typename Element>
inline void score_keys(const Scored& given, const Element* keys, int64_t half, int64_t at) {
    const int64_t c = given.columns, n = given.sub_keys, ahead = rows_ahead<Element>(c);
    const Element* rows[KEYS];
    const Element* later[KEYS];
    for (int j = 0; j < KEYS; ++j) {
        rows[j] = keys + (half * n + at + j) * c;
        later[j] = keys + std::min(half * n + at + j + ahead, given.halves * n - 1) * c;
    }
    float scales[KEYS];
    if (given.normalized) square_rows<KEYS>(rows, AskedFor<Element>{later}, c, scales);
    for (int j = 0; j < KEYS && given.normalized; ++j)
        scales[j] = given.inverse_rms[half * n + at + j] = 1 / std::sqrt(scales[j] / float(c) + given.eps);
    for (int64_t token = 0; token < given.tokens; ++token) {
        float* scores = given.scores + (half * given.tokens + token) * n + at;
        dot_rows<KEYS>(given.queries + (token * given.halves + half) * c, rows, AskedFor<Element>{later}, c, scores);
        for (int j = 0; j < KEYS && given.normalized; ++j) scores[j] *= scales[j];
    }
}

// By the threads of a parallel region.
template <typename Element> void score_all(const Scored& given, const Element* keys) {
    const int64_t c = given.columns;
    const int64_t groups = std::max<int64_t>(KEY_BYTES_A_TASK / (TOGETHER * c * int64_t(sizeof(Element))), 1);
    const int64_t keys_a_task = std::min(groups * TOGETHER, (given.sub_keys + 1) / 2);
#pragma omp for collapse(2) schedule(dynamic, 1)
    for (int64_t half = 0; half < given.halves; ++half)
        for (int64_t begin = 0; begin < given.sub_keys; begin += keys_a_task) {
            const int64_t end = std::min(begin + keys_a_task, given.sub_keys);
            int64_t at = begin;
            for (; at + TOGETHER <= end; at += TOGETHER) score_keys<TOGETHER>(given, keys, half, at);
            for (; at < end; ++at) score_keys<1>(given, keys, half, at);
        }
}
