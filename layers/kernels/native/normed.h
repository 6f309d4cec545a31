// Rows divided by the root of their mean square and scaled: see layers/kernels/rms_norm.py.
#pragma once

#include <cmath>
#include <vector>

#include "rows.h"

// out (columns,) of x and scale (columns,); `widened` (columns,) is for its own use.
template <typename Element>
inline void norm_row(const Element* x, const Element* scale, int64_t columns, float eps, float* widened, Element* out) {
    for (int64_t j = 0; j < columns; ++j) widened[j] = widen(x[j]);
    const float factor = 1 / std::sqrt(mean_square(widened, columns) + eps);
    for (int64_t j = 0; j < columns; ++j) widened[j] *= factor * widen(scale[j]);
    narrow_all(widened, out, columns);
}

// Few rows (rows, columns), normed by each thread for itself: that is sooner done than waited for.
template <typename Element>
inline std::vector<Element> normed_rows(const Element* x, const Element* scale, int64_t rows, int64_t columns, float eps) {
    std::vector<float> widened(columns);
    std::vector<Element> normed(rows * columns);
    for (int64_t row = 0; row < rows; ++row)
        norm_row(x + row * columns, scale, columns, eps, widened.data(), normed.data() + row * columns);
    return normed;
}
