// Bags over rows: see layers/kernels/row_passes.py, quantized_bag.py and bagging.h.

#include "bagging.h"

namespace {

constexpr int64_t LEAST_SLICE = 512;  // columns below which a bag is not shared by several threads

template <typename Element, typename Out>
void add_bags(const Bags& given, const void* table_, void* out_, int threads) {
    const Element* table = static_cast<const Element*>(table_);
    Out* out = static_cast<Out*>(out_);
    threads = useful_threads(threads, given.multiplications());
#pragma omp parallel num_threads(threads)
    for_bags(given, table, LEAST_SLICE, [&](const float* sum, int64_t bag, int64_t first, int64_t columns) {
        narrow_all(sum, out + bag * given.columns + first, columns);
    });
}

template <typename Element>
void quantized_bags(const Bags& given, const void* table, int element, void* out, int threads) {
    switch (element) {
        case 0: return add_bags<Element, float>(given, table, out, threads);
        case 1: return add_bags<Element, BFloat16>(given, table, out, threads);
        case 2: return add_bags<Element, Half>(given, table, out, threads);
    }
}

}  // namespace

// Elements of the table: 0 float, 1 bfloat16, 2 float16, which are the result's too; 3 int8, 4 e4m3fn.
extern "C" void membench_bags(int of_table, const void* table, const float* scales, const int64_t* rows,
                              const float* weights, int64_t bags, int64_t lookups, int64_t columns, int element,
                              void* out, int threads) {
    const Bags given{scales, rows, weights, bags, lookups, columns};
    switch (of_table) {
        case 0: return add_bags<float, float>(given, table, out, threads);
        case 1: return add_bags<BFloat16, BFloat16>(given, table, out, threads);
        case 2: return add_bags<Half, Half>(given, table, out, threads);
        case 3: return quantized_bags<Int8>(given, table, element, out, threads);
        case 4: return quantized_bags<Float8>(given, table, element, out, threads);
    }
}
