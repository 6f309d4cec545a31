// Lookups sorted by row, by a radix sort over only the bits that row numbers have.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

constexpr int DIGIT_BITS = 11;

struct Entry {
    uint32_t row, lookup;
};

}  // namespace

extern "C" {

// order (count,), runs' rows (count,) and starts (count + 1,), of which the first U (+ 1) are written; returns U.
// Stable: the lookups of one row stay in order. Rows are below 2^32, of `bits` bits.
int64_t membench_find_runs(const int64_t* rows, int64_t count, int bits, int64_t* distinct, int32_t* starts,
                           int32_t* order) {
    std::vector<Entry> entries(count), other(count);
    for (int64_t i = 0; i < count; ++i) entries[i] = {uint32_t(rows[i]), uint32_t(i)};
    const int passes = (bits + DIGIT_BITS - 1) / DIGIT_BITS;
    const int digit = passes ? (bits + passes - 1) / passes : 0;
    std::vector<uint32_t> place(std::size_t(1) << digit);
    for (int pass = 0; pass < passes; ++pass) {
        const int shift = pass * digit;
        const uint32_t mask = (uint32_t(1) << digit) - 1;
        std::fill(place.begin(), place.end(), 0u);
        for (const Entry& entry : entries) ++place[entry.row >> shift & mask];
        uint32_t sum = 0;
        for (uint32_t& each : place) sum += std::exchange(each, sum);
        for (const Entry& entry : entries) other[place[entry.row >> shift & mask]++] = entry;
        entries.swap(other);
    }
    int64_t runs = 0;
    for (int64_t i = 0; i < count; ++i) {
        if (i == 0 || entries[i].row != entries[i - 1].row) {
            distinct[runs] = entries[i].row;
            starts[runs++] = int32_t(i);
        }
        order[i] = int32_t(entries[i].lookup);
    }
    starts[runs] = int32_t(count);
    return runs;
}

}  // extern "C"
