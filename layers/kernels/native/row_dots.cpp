// Products of tokens with the rows that they look up: see layers/kernels/row_passes.py.
//
// Letters: N rows, D columns, B tokens, L lookups a token.

#include "dots.h"

namespace {

struct Lookups {
    const int64_t* rows;  // (B, L)
    int64_t tokens, lookups, columns;
};

// The products of `ROWS` lookups of a token, from number `at` on.
template <int ROWS, typename Element>
inline void dot_lookups(const Lookups& given, const Element* table, const Element* token, int64_t at, float* dots) {
    const int64_t last = given.tokens * given.lookups - 1;
    const Element* rows[ROWS];
    const Element* later[ROWS];
    for (int row = 0; row < ROWS; ++row) {
        rows[row] = table + given.rows[at + row] * given.columns;
        later[row] = table + given.rows[std::min(at + row + ROWS_AHEAD, last)] * given.columns;
    }
    dot_rows<ROWS>(token, rows, later, given.columns, dots + at);
}

// Each thread takes some of the lookups, whole tokens or parts of one.
template <typename Element>
void row_dots(const Lookups& given, const void* table_, const void* tokens_, float* dots, int threads) {
    const Element* table = static_cast<const Element*>(table_);
    const Element* tokens = static_cast<const Element*>(tokens_);
    const int64_t parts = (given.lookups + RUNS_A_TASK - 1) / RUNS_A_TASK;
    threads = useful_threads(threads, given.tokens * given.lookups * given.columns);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t task = 0; task < given.tokens * parts; ++task) {
        const int64_t token = task / parts, first = token * given.lookups;
        int64_t at = first + task % parts * RUNS_A_TASK;
        const int64_t end = std::min(at + RUNS_A_TASK, first + given.lookups);
        const Element* here = tokens + token * given.columns;
        for (; at + TOGETHER <= end; at += TOGETHER) dot_lookups<TOGETHER>(given, table, here, at, dots);
        for (; at < end; ++at) dot_lookups<1>(given, table, here, at, dots);
    }
}

}  // namespace

extern "C" void membench_row_dots(int element, const void* table, const int64_t* rows, const void* tokens, int64_t count,
                                  int64_t lookups, int64_t columns, float* dots, int threads) {
    const Lookups given{rows, count, lookups, columns};
    FOR_ELEMENT(element, row_dots, given, table, tokens, dots, threads)
}
