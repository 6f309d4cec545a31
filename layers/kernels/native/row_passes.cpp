// Passes over the rows that a batch reads: see layers/kernels/row_passes.py.
//
// Letters: N rows, D columns, B tokens, L lookups a token, U distinct rows.

#include <vector>

#include "dots.h"

namespace {

constexpr int64_t AHEAD = 4;         // rows asked for before they are needed
constexpr int64_t LONG_RUN = 2048;   // lookups of one row that are split into pieces of so many, for all threads
constexpr int64_t TOO_LARGE = 1 << 26;  // bytes of a gradient of which caches would hold little when it is read

// What a run's gradient is for: written out, or spent on the row at once.
struct Purpose {
    void* gradient;     // (U, D) of the table's element, or null
    bool by_row;        // (N, D) instead
    bool past_caches;   // where it is written
    const Step* step;   // or null
};

struct Pass {
    const int64_t* rows;     // (U,)
    const int32_t* starts;   // (U + 1,)
    const int32_t* order;    // (B·L,)
    int64_t runs, columns, lookups;
    const float* weights;    // (B, L)
    float* dots;             // (B, L) or null
};

// One gather of the tokens of lookups `begin` to `end`: their weighted sum, and their products with the row.
template <typename Element>
void gather(const Pass& pass, const Element* row, const Element* tokens, int64_t begin, int64_t end, float* sum) {
    for (int64_t at = begin; at < end; ++at) {
        const int64_t lookup = pass.order[at];
        const Element* token = tokens + lookup / pass.lookups * pass.columns;
        const float weight = pass.weights[lookup];
        if (sum && at == begin) set_scaled(sum, weight, token, pass.columns);
        if (sum && at > begin) add_scaled(sum, weight, token, pass.columns);
        if (pass.dots) dot_rows<1>(token, &row, Foreseen{}, pass.columns, &pass.dots[lookup]);
    }
}

// out (columns,) = weight * token. Returns, where it is DOTTED, the product of whole blocks of the row with the token's, to
// the bit as `dot_rows`.
template <bool DOTTED, typename Element>
float scale(const Element* row, const Element* token, float weight, int64_t columns, Element* out) {
    Floats first = {}, second = {};
    int64_t j = 0;
    for (; j + BLOCK <= columns; j += BLOCK) {
        const Block numbers = block_of(token + j);
        store_block(out + j, {weight * numbers.first, weight * numbers.second});
        if (!DOTTED) continue;
        const Block others = block_of(row + j);
        first += numbers.first * others.first;
        second += numbers.second * others.second;
    }
    for (; j < columns; ++j) out[j] = narrow<Element>(weight * widen(token[j]));
    if (!DOTTED) return 0;
    float product = 0;
    first += second;
    add_sums<1>(&first, &product, 1);
    return product;
}

// Most rows are looked up once: the gradient of such a one is a token times its weight, written without a sum between.
template <typename Element>
void write_only(const Pass& pass, const Element* row, const Element* tokens, int64_t lookup, Element* out) {
    const Element* token = tokens + lookup / pass.lookups * pass.columns;
    const float weight = pass.weights[lookup];
    if (pass.dots && pass.columns % BLOCK == 0) {
        pass.dots[lookup] = scale<true>(row, token, weight, pass.columns, out);
        return;
    }
    scale<false>(row, token, weight, pass.columns, out);
    if (pass.dots) dot_rows<1>(token, &row, Foreseen{}, pass.columns, &pass.dots[lookup]);
}

// A row of the gradient: where it is made, and where it goes.
template <typename Element> class GradientRow {
  public:
    GradientRow(const Purpose& purpose, int64_t columns)
        : gradient_(static_cast<Element*>(purpose.gradient)), by_row_(purpose.by_row), columns_(columns),
          made_(purpose.past_caches ? columns : 0) {}

    Element* at(int64_t run, int64_t row) {
        out_ = gradient_ + (by_row_ ? row : run) * columns_;
        return made_.empty() ? out_ : made_.data();
    }

    void made() {
        if (!made_.empty()) copy_past_caches(out_, made_.data(), columns_ * int64_t(sizeof(Element)));
    }

  private:
    Element *gradient_, *out_ = nullptr;
    bool by_row_;
    int64_t columns_;
    std::vector<Element> made_;  // what is written past the caches is made in one
};

template <typename Element>
void finish(const Pass& pass, const Purpose& purpose, Element* table, int64_t run, float* sum, GradientRow<Element>& out) {
    const int64_t row = pass.rows[run], columns = pass.columns;
    if (purpose.gradient) {
        narrow_all(sum, out.at(run, row), columns);
        out.made();
    }
    if (purpose.step) update_row(*purpose.step, table + row * columns, sum, row, columns);
}

// Runs longer than LONG_RUN first, piece by piece on all threads, then summed in the order of the pieces.
template <typename Element>
void long_runs(const Pass& pass, const Purpose& purpose, Element* table, const Element* tokens, int threads) {
    const int64_t columns = pass.columns;
    const bool summed = purpose.gradient || purpose.step;
    GradientRow<Element> out(purpose, columns);
    for (int64_t run = 0; run < pass.runs; ++run) {
        const int64_t begin = pass.starts[run], end = pass.starts[run + 1];
        if (end - begin <= LONG_RUN) continue;
        const int64_t pieces = (end - begin + LONG_RUN - 1) / LONG_RUN;
        std::vector<float> partial(summed ? pieces * columns : 0, 0.0f);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
        for (int64_t piece = 0; piece < pieces; ++piece) {
            const int64_t first = begin + piece * LONG_RUN;
            gather(pass, table + pass.rows[run] * columns, tokens, first, std::min(end, first + LONG_RUN),
                   summed ? partial.data() + piece * columns : nullptr);
        }
        if (!summed) continue;
        for (int64_t piece = 1; piece < pieces; ++piece)
            add_scaled(partial.data(), 1.0f, partial.data() + piece * columns, columns);
        finish(pass, purpose, table, run, partial.data(), out);
    }
}

template <typename Element>
void row_backward(const Pass& pass, const Purpose& purpose, void* table_, const void* tokens_, int threads) {
    Element* table = static_cast<Element*>(table_);
    const Element* tokens = static_cast<const Element*>(tokens_);
    const int64_t columns = pass.columns;
    const bool summed = purpose.gradient || purpose.step, reads = pass.dots || purpose.step;
    threads = useful_threads(threads, 2 * pass.starts[pass.runs] * columns);
    long_runs(pass, purpose, table, tokens, threads);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> sum(summed ? columns : 0);
        GradientRow<Element> out(purpose, columns);
#pragma omp for schedule(dynamic, RUNS_A_TASK)
        for (int64_t run = 0; run < pass.runs; ++run) {
            if (reads && run + AHEAD < pass.runs) prefetch_row(table + pass.rows[run + AHEAD] * columns, columns);
            const int64_t begin = pass.starts[run], end = pass.starts[run + 1];
            if (begin == end || end - begin > LONG_RUN) continue;
            const Element* row = table + pass.rows[run] * columns;
            if (purpose.gradient && end == begin + 1) {
                write_only(pass, row, tokens, pass.order[begin], out.at(run, pass.rows[run]));
                out.made();
                continue;
            }
            gather(pass, row, tokens, begin, end, summed ? sum.data() : nullptr);
            if (summed) finish(pass, purpose, table, run, sum.data(), out);
        }
        finish_stores_past_caches();
    }
}

template <typename Element>
void update_rows(void* table_, const int64_t* rows, const void* gradient_, int64_t count, int64_t columns,
                 const Step& step, int threads) {
    Element* table = static_cast<Element*>(table_);
    const Element* gradient = static_cast<const Element*>(gradient_);
    threads = useful_threads(threads, 2 * count * columns);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> widened(columns);
#pragma omp for schedule(dynamic, RUNS_A_TASK)
        for (int64_t at = 0; at < count; ++at) {
            if (at + AHEAD < count) prefetch_row(table + rows[at + AHEAD] * columns, columns);
            for (int64_t j = 0; j < columns; ++j) widened[j] = widen(gradient[at * columns + j]);
            update_row(step, table + rows[at] * columns, widened.data(), rows[at], columns);
        }
    }
}

}  // namespace

extern "C" {

void membench_row_backward(int element, void* table, const int64_t* rows, const int32_t* starts, const int32_t* order,
                           int64_t runs, int64_t columns, int64_t lookups, const float* weights, const void* tokens,
                           void* gradient, bool by_row, float* dots, const Step* step, int threads) {
    const Pass pass{rows, starts, order, runs, columns, lookups, weights, dots};
    const int64_t gradient_bytes = runs * columns * (element == 0 ? 4 : 2);
    const Purpose purpose{gradient, by_row, gradient_bytes >= TOO_LARGE, step};
    FOR_ELEMENT(element, row_backward, pass, purpose, table, tokens, threads)
}

void membench_update_rows(int element, void* table, const int64_t* rows, const void* gradient, int64_t count,
                          int64_t columns, const Step* step, int threads) {
    FOR_ELEMENT(element, update_rows, table, rows, gradient, count, columns, *step, threads)
}

}  // extern "C"
