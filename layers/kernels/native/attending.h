// Attention of one new token of each sequence over a KV cache: see layers/kernels/attend_last.py.
//
// Letters: S sequences, h query heads, g key and value heads, c head dim, C tokens that the cache holds.
#pragma once

#include <cmath>
#include <vector>

#include "dots.h"
#include "exponentials.h"

struct Attended {
    int64_t sequences, heads, kv_heads, head_dim, capacity, held;

    int64_t width() const { return (heads + 2 * kv_heads) * head_dim; }
};

// A head turned by its position's angles: the second half of the sines has their sign, the first its opposite.
template <typename Element, typename Out>
inline void turn(const Element* head, const Element* cosines, const Element* sines, int64_t head_dim, Out* out) {
    const int64_t half = head_dim / 2;
#pragma omp simd
    for (int64_t j = 0; j < half; ++j) {
        const float first = widen(head[j]), second = widen(head[half + j]);
        out[j] = narrow<Out>(first * widen(cosines[j]) + second * widen(sines[j]));
        out[half + j] = narrow<Out>(second * widen(cosines[half + j]) + first * widen(sines[half + j]));
    }
}

// scores[p] = vector · rows[p]
template <typename Element>
inline void dot_all(const Element* vector, const Element* rows, int64_t count, int64_t columns, float* scores) {
    const Element* here[TOGETHER];
    const Element* later[TOGETHER];
    int64_t at = 0;
    for (; at + TOGETHER <= count; at += TOGETHER) {
        for (int64_t j = 0; j < TOGETHER; ++j) {
            here[j] = rows + (at + j) * columns;
            later[j] = rows + std::min(at + j + ROWS_AHEAD, count - 1) * columns;
        }
        dot_rows<TOGETHER>(vector, here, AskedFor<Element>{later}, columns, scores + at);
    }
    for (; at < count; ++at) scores[at] = dot(vector, rows + at * columns, columns);
}

inline void softmax(float* scores, int64_t count, float scale) {
    float most = scores[0], sum = 0;
#pragma omp simd reduction(max : most)
    for (int64_t p = 1; p < count; ++p) most = scores[p] > most ? scores[p] : most;
#pragma omp simd reduction(+ : sum)
    for (int64_t p = 0; p < count; ++p) {
        scores[p] = exp_of((scores[p] - most) * scale);
        sum += scores[p];
    }
    for (int64_t p = 0; p < count; ++p) scores[p] /= sum;
}

// sum += weights · rows, of `count` rows: of TOGETHER the sum is read and written once.
template <typename Element>
inline void add_weighted(const float* weights, const Element* rows, int64_t count, int64_t columns, float* sum) {
    if (count < TOGETHER) {
        for (int64_t p = 0; p < count; ++p) add_scaled(sum, weights[p], rows + p * columns, columns);
        return;
    }
    static_assert(TOGETHER == 4);
    const Element *first = rows, *second = first + columns, *third = second + columns, *fourth = third + columns;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j)
        sum[j] += (weights[0] * widen(first[j]) + weights[1] * widen(second[j])) +
                  (weights[2] * widen(third[j]) + weights[3] * widen(fourth[j]));
}

// out (S, h·c) of projected (S, (h + 2g)·c), whose keys and values are written to the caches. The threads of a parallel
// region share the heads, and wait for each other at its end.
template <typename Element>
void attend(const Attended& shape, const Element* projected, const Element* cosines, const Element* sines,
            Element* all_keys, Element* all_values, Element* out) {
    const int64_t c = shape.head_dim, group = shape.heads / shape.kv_heads, seen = shape.held + 1;
    const float scale = 1 / std::sqrt(float(c));
    std::vector<Element> query(c);
    std::vector<float> scores(group * seen), sums(group * c);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < shape.sequences * shape.kv_heads; ++task) {
        const int64_t sequence = task / shape.kv_heads, kv_head = task % shape.kv_heads;
        const Element* heads = projected + sequence * shape.width();
        Element* keys = all_keys + task * shape.capacity * c;
        Element* values = all_values + task * shape.capacity * c;
        turn(heads + (shape.heads + kv_head) * c, cosines, sines, c, keys + shape.held * c);
        std::copy_n(heads + (shape.heads + shape.kv_heads + kv_head) * c, c, values + shape.held * c);
        for (int64_t each = 0; each < group; ++each) {
            turn(heads + (kv_head * group + each) * c, cosines, sines, c, query.data());
            dot_all(query.data(), keys, seen, c, scores.data() + each * seen);
            softmax(scores.data() + each * seen, seen, scale);
        }
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (int64_t p = 0; p < seen; p += TOGETHER) {
            const int64_t count = std::min(TOGETHER, seen - p);
            for (int64_t j = p; j < p + count; ++j) prefetch_row(values + std::min(j + ROWS_AHEAD, seen - 1) * c, c);
            for (int64_t each = 0; each < group; ++each)
                add_weighted(scores.data() + each * seen + p, values + p * c, count, c, sums.data() + each * c);
        }
        narrow_all(sums.data(), out + (sequence * shape.heads + kv_head * group) * c, group * c);
    }
}
