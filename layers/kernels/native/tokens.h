// What a layer of few tokens is given and gives, by itself or in a block.
//
// Letters: B tokens, d model dim.
#pragma once

#include "normed.h"

// A layer's tokens x (B, d) and its result y; with the scale of a block's norm it is x + layer(norm(x)).
struct Tokens {
    const void *x, *norm_scale;
    void* y;
    int64_t count, model_dim;
    double eps;

    // Calls use(x) with what the layer is given.
    template <typename Element, typename Use> void normed(const Use& use) const {
        const Element* here = static_cast<const Element*>(x);
        if (norm_scale)
            use(normed_rows(here, static_cast<const Element*>(norm_scale), count, model_dim, float(eps)).data());
        else
            use(here);
    }

    // y of a stretch of a token's columns.
    template <typename Element> void finish(float* sums, int64_t token, int64_t begin, int64_t columns) const {
        const int64_t place = token * model_dim + begin;
        const Element* before = static_cast<const Element*>(x) + place;
        for (int64_t j = 0; norm_scale && j < columns; ++j) sums[j] += widen(before[j]);
        narrow_all(sums, static_cast<Element*>(y) + place, columns);
    }
};
