// Lookups sorted by row: by counting those of each row, where there are few rows for a core's cache and for the lookups;
// else by a radix sort over only the bits that row numbers have.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

constexpr int DIGIT_BITS = 11;
constexpr int64_t COUNTED_ROWS = 1 << 16;   // whose counts stay in a second-level cache
constexpr int64_t ROWS_OF_A_LOOKUP = 4;     // to look through the counts of more takes longer than to sort

struct Entry {
    uint32_t row, lookup;
};

template <typename Row>
int64_t counted_runs(const Row* rows, int64_t count, int64_t num_rows, Row* distinct, int32_t* starts, int32_t* order) {
    std::vector<int32_t> place(num_rows);
    for (int64_t i = 0; i < count; ++i) ++place[rows[i]];
    int64_t runs = 0;
    int32_t sum = 0;
    for (int64_t row = 0; row < num_rows; ++row) {  // what a row that nobody reads writes, the next one overwrites
        distinct[runs] = Row(row);
        starts[runs] = sum;
        runs += place[row] != 0;
        sum += std::exchange(place[row], sum);
    }
    starts[runs] = sum;
    for (int64_t i = 0; i < count; ++i) order[place[rows[i]]++] = int32_t(i);
    return runs;
}

template <typename Row>
int64_t sorted_runs(const Row* rows, int64_t count, int64_t num_rows, Row* distinct, int32_t* starts, int32_t* order) {
    int bits = 0;
    while ((num_rows - 1) >> bits) ++bits;
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
            distinct[runs] = Row(entries[i].row);
            starts[runs++] = int32_t(i);
        }
        order[i] = int32_t(entries[i].lookup);
    }
    starts[runs] = int32_t(count);
    return runs;
}

template <typename Row>
int64_t runs_of(const void* rows_, int64_t count, int64_t num_rows, void* distinct_, int32_t* starts, int32_t* order) {
    const Row* rows = static_cast<const Row*>(rows_);
    Row* distinct = static_cast<Row*>(distinct_);
    if (num_rows <= std::min(COUNTED_ROWS, ROWS_OF_A_LOOKUP * count))
        return counted_runs(rows, count, num_rows, distinct, starts, order);
    return sorted_runs(rows, count, num_rows, distinct, starts, order);
}

}  // namespace

// order (count,), runs' rows and starts (count + 1,), of which the first U (+ 1) count; returns U. Rows are of 32 bits, or
// wide: of 64.
// Stable: the lookups of one row stay in order. There are at most 2^32 rows.
extern "C" int64_t membench_find_runs(const void* rows, int wide, int64_t count, int64_t num_rows, void* distinct,
                                      int32_t* starts, int32_t* order) {
    return wide ? runs_of<int64_t>(rows, count, num_rows, distinct, starts, order)
                : runs_of<int32_t>(rows, count, num_rows, distinct, starts, order);
}
