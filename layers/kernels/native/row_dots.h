// Products of tokens with the rows that they look up: see layers/kernels/row_passes.py.
//
// Letters: N rows, D columns, B tokens, L lookups a token.
#pragma once

#include "dots.h"

struct Lookups {
    const int64_t* rows;  // (B, L)
    int64_t tokens, lookups, columns;

    int64_t multiplications() const { return tokens * lookups * columns; }
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
    dot_rows<ROWS>(token, rows, AskedFor<Element>{later}, given.columns, dots + at);
}

// dots (B, L) of the table's rows and tokens (B, D), `a_task` at a time by the threads of a parallel region: whole tokens
// or parts of one.
template <typename Element>
void dot_all_lookups(const Lookups& given, const Element* table, const Element* tokens, int64_t a_task, float* dots) {
    const int64_t parts = (given.lookups + a_task - 1) / a_task;
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < given.tokens * parts; ++task) {
        const int64_t token = task / parts, first = token * given.lookups;
        int64_t at = first + task % parts * a_task;
        const int64_t end = std::min(at + a_task, first + given.lookups);
        const Element* here = tokens + token * given.columns;
        for (; at + TOGETHER <= end; at += TOGETHER) dot_lookups<TOGETHER>(given, table, here, at, dots);
        for (; at < end; ++at) dot_lookups<1>(given, table, here, at, dots);
    }
}
