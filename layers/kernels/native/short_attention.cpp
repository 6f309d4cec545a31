// Causal attention within short sequences, and its backward pass: see layers/kernels/short_attention.py.
//
// Letters: S sequences, T tokens of each, h query heads, g key and value heads, c head dim.

#include "attending.h"

namespace {

struct Shape {
    int64_t sequences, tokens, heads, kv_heads, head_dim;

    int64_t width() const { return (heads + 2 * kv_heads) * head_dim; }
    int64_t group() const { return heads / kv_heads; }
    int64_t multiplications() const { return sequences * heads * head_dim * tokens * (tokens + 1); }
};

// The tokens of one head in floats, with zeros up to whole blocks of columns and TOGETHER rows.
struct Head {
    Head(int64_t tokens, int64_t columns)
        : pitch((columns + BLOCK - 1) / BLOCK * BLOCK),
          values((tokens + TOGETHER - 1) / TOGETHER * TOGETHER * pitch) {}

    float* row(int64_t token) { return values.data() + token * pitch; }

    int64_t pitch;
    std::vector<float> values;
};

// One head of all tokens of a sequence, and where they lie in what is projected (T, width) or attended (T, h·c).
template <typename Element> struct Given {
    const Shape& shape;
    const Element *cosines, *sines;  // (T, c)

    void read(const Element* at, int64_t width, Head& head) const {
        for (int64_t token = 0; token < shape.tokens; ++token) {
            float* row = head.row(token);
#pragma omp simd
            for (int64_t j = 0; j < shape.head_dim; ++j) row[j] = widen(at[token * width + j]);
        }
    }

    void read_turned(const Element* at, Head& head) const {
        const int64_t c = shape.head_dim;
        for (int64_t token = 0; token < shape.tokens; ++token)
            turn(at + token * shape.width(), cosines + token * c, sines + token * c, c, head.row(token));
    }

    void write(Head& head, Element* at) const {
        for (int64_t token = 0; token < shape.tokens; ++token)
            narrow_all(head.row(token), at + token * shape.width(), shape.head_dim);
    }

    // The gradient of what was turned: the same turn with the angles' signs changed.
    void write_turned_back(Head& head, Element* at) const {
        const int64_t half = shape.head_dim / 2;
        for (int64_t token = 0; token < shape.tokens; ++token) {
            const Element *cosine = cosines + token * shape.head_dim, *sine = sines + token * shape.head_dim;
            float* row = head.row(token);
#pragma omp simd
            for (int64_t j = 0; j < half; ++j) {
                const float first = row[j], second = row[half + j];
                row[j] = first * widen(cosine[j]) + second * widen(sine[half + j]);
                row[half + j] = second * widen(cosine[half + j]) + first * widen(sine[j]);
            }
        }
        write(head, at);
    }
};

// products[p] = vector · row p of a head, of at least `count` rows.
inline void dot_head(const float* vector, Head& head, int64_t count, float* products) {
    for (int64_t at = 0; at < count; at += TOGETHER) {
        const float* rows[TOGETHER];
        for (int64_t j = 0; j < TOGETHER; ++j) rows[j] = head.row(at + j);
        dot_rows<TOGETHER>(vector, rows, Foreseen{}, head.pitch, products + at);
    }
}

// out (S, T, h·c). A task is a head of keys and values with all query heads that look at it.
template <typename Element>
void attend_all(const Shape& shape, const void* projected_, const void* cosines, const void* sines, void* out_, int threads) {
    const Element* projected = static_cast<const Element*>(projected_);
    const Given<Element> given{shape, static_cast<const Element*>(cosines), static_cast<const Element*>(sines)};
    const int64_t c = shape.head_dim, T = shape.tokens, queries_width = shape.heads * c;
    const float scale = 1 / std::sqrt(float(c));
    threads = useful_threads(threads, shape.multiplications());
#pragma omp parallel num_threads(threads)
    {
        Head keys(T, c), values(T, c), queries(T, c);
        std::vector<float> weights(T + TOGETHER), sum(keys.pitch);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < shape.sequences * shape.kv_heads; ++task) {
            const int64_t sequence = task / shape.kv_heads, kv_head = task % shape.kv_heads;
            const Element* heads = projected + sequence * T * shape.width();
            given.read_turned(heads + (shape.heads + kv_head) * c, keys);
            given.read(heads + (shape.heads + shape.kv_heads + kv_head) * c, shape.width(), values);
            for (int64_t head = kv_head * shape.group(); head < (kv_head + 1) * shape.group(); ++head) {
                given.read_turned(heads + head * c, queries);
                Element* out = static_cast<Element*>(out_) + sequence * T * queries_width + head * c;
                for (int64_t token = 0; token < T; ++token) {
                    dot_head(queries.row(token), keys, token + 1, weights.data());
                    softmax(weights.data(), token + 1, scale);
                    std::fill(sum.begin(), sum.end(), 0.0f);
                    for (int64_t p = 0; p <= token; ++p) add_scaled(sum.data(), weights[p], values.row(p), values.pitch);
                    narrow_all(sum.data(), out + token * queries_width, c);
                }
            }
        }
    }
}

// gradient (S, T, (h + 2g)·c) of what is projected, given that of `out`. Weights are formed again.
template <typename Element>
void attend_back(const Shape& shape, const void* projected_, const void* cosines, const void* sines,
                 const void* out_gradient_, void* gradient_, int threads) {
    const Element* projected = static_cast<const Element*>(projected_);
    const Given<Element> given{shape, static_cast<const Element*>(cosines), static_cast<const Element*>(sines)};
    const int64_t c = shape.head_dim, T = shape.tokens, queries_width = shape.heads * c;
    const float scale = 1 / std::sqrt(float(c));
    threads = useful_threads(threads, 2 * shape.multiplications());
#pragma omp parallel num_threads(threads)
    {
        Head keys(T, c), values(T, c), queries(T, c), out_gradient(T, c);
        Head of_keys(T, c), of_values(T, c), of_queries(T, c);
        std::vector<float> weights(T + TOGETHER), of_weights(T + TOGETHER);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < shape.sequences * shape.kv_heads; ++task) {
            const int64_t sequence = task / shape.kv_heads, kv_head = task % shape.kv_heads;
            const int64_t key_at = (shape.heads + kv_head) * c, value_at = key_at + shape.kv_heads * c;
            const Element* heads = projected + sequence * T * shape.width();
            Element* gradient = static_cast<Element*>(gradient_) + sequence * T * shape.width();
            given.read_turned(heads + key_at, keys);
            given.read(heads + value_at, shape.width(), values);
            std::fill(of_keys.values.begin(), of_keys.values.end(), 0.0f);
            std::fill(of_values.values.begin(), of_values.values.end(), 0.0f);
            for (int64_t head = kv_head * shape.group(); head < (kv_head + 1) * shape.group(); ++head) {
                given.read_turned(heads + head * c, queries);
                given.read(static_cast<const Element*>(out_gradient_) + sequence * T * queries_width + head * c,
                           queries_width, out_gradient);
                std::fill(of_queries.values.begin(), of_queries.values.end(), 0.0f);
                for (int64_t token = 0; token < T; ++token) {
                    dot_head(queries.row(token), keys, token + 1, weights.data());
                    softmax(weights.data(), token + 1, scale);
                    dot_head(out_gradient.row(token), values, token + 1, of_weights.data());
                    float mean = 0;
                    for (int64_t p = 0; p <= token; ++p) mean += weights[p] * of_weights[p];
                    for (int64_t p = 0; p <= token; ++p) {
                        const float of_score = weights[p] * (of_weights[p] - mean) * scale;
                        add_scaled(of_queries.row(token), of_score, keys.row(p), keys.pitch);
                        add_scaled(of_keys.row(p), of_score, queries.row(token), keys.pitch);
                        add_scaled(of_values.row(p), weights[p], out_gradient.row(token), keys.pitch);
                    }
                }
                given.write_turned_back(of_queries, gradient + head * c);
            }
            given.write_turned_back(of_keys, gradient + key_at);
            given.write(of_values, gradient + value_at);
        }
    }
}

}  // namespace

// out (S, T, h·c) of projected (S, T, (h + 2g)·c), queries first, and cosines and sines (T, c).
extern "C" void membench_short_attention(int element, const void* projected, const void* cosines, const void* sines,
                                         int64_t sequences, int64_t tokens, int64_t heads, int64_t kv_heads,
                                         int64_t head_dim, void* out, int threads) {
    const Shape shape{sequences, tokens, heads, kv_heads, head_dim};
    FOR_ELEMENT(element, attend_all, shape, projected, cosines, sines, out, threads)
}

// gradient (S, T, (h + 2g)·c), given that of out (S, T, h·c).
extern "C" void membench_short_attention_backward(int element, const void* projected, const void* cosines,
                                                  const void* sines, const void* out_gradient, int64_t sequences,
                                                  int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim,
                                                  void* gradient, int threads) {
    const Shape shape{sequences, tokens, heads, kv_heads, head_dim};
    FOR_ELEMENT(element, attend_back, shape, projected, cosines, sines, out_gradient, gradient, threads)
}
