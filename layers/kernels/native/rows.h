// What the passes over table rows share: one row's arithmetic, and its update.
#pragma once

#include <cmath>

#include "elements.h"

constexpr int64_t LINE_BYTES = 64;

// Of rows that are read in the order of the lookups:
constexpr int64_t TOGETHER = 4;     // so many side by side, line by line
constexpr int64_t ROWS_AHEAD = 16;  // asked for before they are needed

// Prefetches a line before it is needed, because hardware cannot predict the addresses of rows. The line goes into
// the second-level cache, which can wait for more lines at the same time than the first-level cache.
inline void prefetch_line(const void* address) { __builtin_prefetch(address, 0, 2); }

template <typename Element> inline void prefetch_row(const Element* row, int64_t columns) {
    const char* first = reinterpret_cast<const char*>(row);
    for (int64_t at = 0; at < columns * int64_t(sizeof(Element)); at += LINE_BYTES) prefetch_line(first + at);
}

// Four sums, as a single one would wait for each addition to end before it begins the next.
template <typename Element> inline float dot(const Element* a, const Element* b, int64_t columns) {
    const int64_t quarter = columns / 4;
    const Element *a1 = a + quarter, *a2 = a1 + quarter, *a3 = a2 + quarter;
    const Element *b1 = b + quarter, *b2 = b1 + quarter, *b3 = b2 + quarter;
    float sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
    for (int64_t j = 0; j < quarter; ++j) {
        sum0 += widen(a[j]) * widen(b[j]);
        sum1 += widen(a1[j]) * widen(b1[j]);
        sum2 += widen(a2[j]) * widen(b2[j]);
        sum3 += widen(a3[j]) * widen(b3[j]);
    }
    for (int64_t j = 4 * quarter; j < columns; ++j) sum0 += widen(a[j]) * widen(b[j]);
    return (sum0 + sum1) + (sum2 + sum3);
}

// sum += weight * vector
template <typename Element> inline void add_scaled(float* sum, float weight, const Element* vector, int64_t columns) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) sum[j] += weight * widen(vector[j]);
}

// sum = weight * vector
template <typename Element> inline void set_scaled(float* sum, float weight, const Element* vector, int64_t columns) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) sum[j] = weight * widen(vector[j]);
}

inline float mean_square(const float* vector, int64_t columns) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < columns; ++j) sum += vector[j] * vector[j];
    return sum / float(columns);
}

enum class Rule : int32_t { sgd = 0, row_adagrad = 1, row_adam = 2, lazy_adam = 3 };

// One update, as layers/kernels/row_update.py defines it. State pointers are null where a rule has none.
struct Step {
    int32_t rule;
    int32_t stochastic;
    double learning_rate, weight_decay, eps, beta1, beta2;  // of fp32 numbers 1 - beta2 would keep four digits
    double correction1, correction2;                        // 1 - beta^t
    int32_t number;
    uint32_t seed;
    float* sums;
    float* first;
    float* second;
    int32_t* stamps;
};

template <typename Element> inline void round_row(const Step&, const float* values, Element* row, int64_t, int64_t columns) {
    narrow_all(values, row, columns);
}
template <>
inline void round_row<BFloat16>(const Step& step, const float* values, BFloat16* row, int64_t index, int64_t columns) {
    if (step.stochastic)
        narrow_stochastically(values, row, columns, uint64_t(index) * columns, step.seed);
    else
        narrow_all(values, row, columns);
}

// row = decay * row - scale * change; `change` is overwritten.
template <typename Element>
inline void write_row(const Step& step, Element* row, float* change, float scale, float decay, int64_t index, int64_t columns) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) change[j] = decay * widen(row[j]) - scale * change[j];
    round_row(step, change, row, index, columns);
}

// Updates row `index` of a table by its gradient, which is overwritten.
template <typename Element>
inline void update_row(const Step& step, Element* row, float* gradient, int64_t index, int64_t columns) {
    const float lr = float(step.learning_rate), eps = float(step.eps), b1 = float(step.beta1), b2 = float(step.beta2);
    const float rest1 = float(1 - step.beta1), rest2 = float(1 - step.beta2);
    double decay = 1 - step.learning_rate * step.weight_decay;
    float scale = lr;
    switch (Rule(step.rule)) {
        case Rule::sgd: break;
        case Rule::row_adagrad: {
            float sum = step.sums[index] += mean_square(gradient, columns);
            scale = lr / (std::sqrt(sum) + eps);
            break;
        }
        case Rule::row_adam: {
            float second = step.second[index] = b2 * step.second[index] + rest2 * mean_square(gradient, columns);
            scale = float(lr / step.correction1) / (float(std::sqrt(second / step.correction2)) + eps);
            float* first = step.first + index * columns;
#pragma omp simd
            for (int64_t j = 0; j < columns; ++j) gradient[j] = first[j] = b1 * first[j] + rest1 * gradient[j];
            break;
        }
        case Rule::lazy_adam: {
            // In steps in which the row has no gradient, dense Adam decays its moments and weights, which is done
            // here, and also moves the row by what is left of its first moment, which is not.
            const int32_t gap = step.number - step.stamps[index];
            step.stamps[index] = step.number;
            const float decay1 = float(std::pow(step.beta1, gap)), decay2 = float(std::pow(step.beta2, gap));
            decay = std::pow(decay, gap);
            float* first = step.first + index * columns;
            float* second = step.second + index * columns;
            const float inverse2 = float(1 / step.correction2);
            scale = float(lr / step.correction1);
#pragma omp simd
            for (int64_t j = 0; j < columns; ++j) {
                first[j] = decay1 * first[j] + rest1 * gradient[j];
                second[j] = decay2 * second[j] + rest2 * gradient[j] * gradient[j];
                gradient[j] = first[j] / (std::sqrt(second[j] * inverse2) + eps);
            }
            break;
        }
    }
    write_row(step, row, gradient, scale, float(decay), index, columns);
}
