// What memory layers and PEER begin with, for few tokens: the rows that each reads, and their weights.
//
// Letters: B tokens, d model dim, H heads, dk key dim, c = dk/2, n sub-keys a half, k rows a head.
#pragma once

#include "choosing.h"
#include "products.h"
#include "scoring.h"
#include "tokens.h"

constexpr int64_t LEAST_SLICE_OF_FEW = 64;  // columns of a bag for a thread that is there already

// Pointers without a type are to the caller's element, or null where nothing is normalised.
struct Retrieval {
    int64_t tokens, model_dim, heads, key_dim, sub_keys, top_k;
    double eps;
    const void *query, *keys;             // (H·dk, d) and (H, 2, n, c)
    const void *norm_weight, *norm_bias;  // (dk,) of a layer norm of each head's query
    const void *query_scale, *key_scale;  // (dk,) of RMS norms of the halves of queries, and of keys
    void* projected;                      // (B, H·dk); this and what follows is written
    float *scores, *inverse_rms;          // (H, 2, B, n) and (H, 2, n)
    int32_t* halves;                      // (2, B, H·k): the sub-keys that are chosen
    float* weights;                       // (B, H·k)

    Choice choice() const { return {heads, tokens, sub_keys, top_k}; }
    int64_t multiplications() const { return tokens * heads * key_dim * (model_dim + sub_keys); }
};

// The rows (B, H·k) that are read: those that are given, or else those chosen.
inline std::vector<int64_t> rows_of(const Retrieval& of, const void* given) {
    std::vector<int64_t> rows(of.tokens * of.heads * of.top_k);
    if (given)
        std::copy_n(static_cast<const int64_t*>(given), rows.size(), rows.begin());
    else
        for (size_t i = 0; i < rows.size(); ++i) rows[i] = of.halves[i] * of.sub_keys + of.halves[rows.size() + i];
    return rows;
}

enum RetrievalPart { project_queries = 0, score = 1, choose_rows = 2, RETRIEVAL_PARTS = 3 };

// (dk,): less their mean, over the root of their variance, scaled and moved.
template <typename Element>
inline void layer_norm(float* query, const Element* weight, const Element* bias, int64_t columns, float eps) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < columns; ++j) sum += query[j];
    const float mean = sum / float(columns);
    for (int64_t j = 0; j < columns; ++j) query[j] -= mean;
    const float factor = 1 / std::sqrt(mean_square(query, columns) + eps);
    for (int64_t j = 0; j < columns; ++j) query[j] = query[j] * factor * widen(weight[j]) + widen(bias[j]);
}

// (B, 2H, c), normalised where that is asked for, each arranged as keys are.
template <typename Element> inline std::vector<float> arranged_queries(const Retrieval& given) {
    const int64_t dk = given.key_dim, c = dk / 2, vectors = given.tokens * given.heads;
    const Element* projected = static_cast<const Element*>(given.projected);
    const Element* query_scale = static_cast<const Element*>(given.query_scale);
    const Element* key_scale = static_cast<const Element*>(given.key_scale);
    std::vector<float> query(dk), arranged(vectors * dk);
    for (int64_t vector = 0; vector < vectors; ++vector) {
        for (int64_t j = 0; j < dk; ++j) query[j] = widen(projected[vector * dk + j]);
        if (given.norm_weight)
            layer_norm(query.data(), static_cast<const Element*>(given.norm_weight),
                       static_cast<const Element*>(given.norm_bias), dk, float(given.eps));
        for (int64_t half = 0; half < 2; ++half) {
            float* here = query.data() + half * c;
            // (q·s)·(k·t) = (q·s·t)·k
            if (query_scale) {
                const float factor = 1 / std::sqrt(mean_square(here, c) + float(given.eps));
                for (int64_t j = 0; j < c; ++j)
                    here[j] *= factor * widen(query_scale[half * c + j]) * widen(key_scale[half * c + j]);
            }
            arrange<Element>(here, c, arranged.data() + vector * dk + half * c);
        }
    }
    return arranged;
}

// One part, by the threads of a parallel region, which have waited for each other when it is done.
template <typename Element> void retrieve(const Retrieval& given, const Tokens& tokens, int part) {
    switch (part) {
        case project_queries:
            tokens.normed<Element>([&](const Element* x) {
                const Product product{given.tokens, given.heads * given.key_dim, given.model_dim};
                multiply<Element, Element>(product, x, static_cast<const Element*>(given.query), nullptr,
                                           static_cast<Element*>(given.projected));
            });
            break;
        case score: {
            const std::vector<float> queries = arranged_queries<Element>(given);
            const Scored scored{given.tokens, 2 * given.heads, given.sub_keys, given.key_dim / 2,
                                given.query_scale != nullptr, float(given.eps), queries.data(), given.scores,
                                given.inverse_rms};
            score_all(scored, static_cast<const Element*>(given.keys));
            break;
        }
        case choose_rows:
            choose(given.choice(), given.scores, 1, given.halves, given.weights);
            break;
    }
}
