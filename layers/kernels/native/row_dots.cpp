// Products of tokens with the rows that they look up: see layers/kernels/row_passes.py and row_dots.h.

#include "row_dots.h"

namespace {

template <typename Element>
void row_dots(const Lookups& given, const void* table, const void* tokens, float* dots, int threads) {
    threads = useful_threads(threads, given.multiplications());
#pragma omp parallel num_threads(threads)
    dot_all_lookups(given, static_cast<const Element*>(table), static_cast<const Element*>(tokens), RUNS_A_TASK, dots);
}

}  // namespace

extern "C" void membench_row_dots(int element, const void* table, const int64_t* rows, const void* tokens, int64_t count,
                                  int64_t lookups, int64_t columns, float* dots, int threads) {
    const Lookups given{rows, count, lookups, columns};
    FOR_ELEMENT(element, row_dots, given, table, tokens, dots, threads)
}
