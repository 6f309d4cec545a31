// Reads rows and does next to nothing with them: what any pass over random rows is measured against.

#include "rows.h"

namespace {

constexpr int64_t FOURS_A_TASK = 256;

struct Rows {
    const char* table;
    const int64_t* numbers;
    int64_t count, row_bytes;

    const char* operator[](int64_t at) const { return table + numbers[std::min(at, count - 1)] * row_bytes; }
};

template <int ROWS> inline uint64_t read(const Rows& rows, int64_t from) {
    const char *now[ROWS], *later[ROWS];
    for (int row = 0; row < ROWS; ++row) {
        now[row] = rows[from + row];
        later[row] = rows[from + row + ROWS_AHEAD];
    }
    uint64_t words[LINE_BYTES / 8] = {}, seen = 0;
    int64_t at = 0;
    for (; at + LINE_BYTES <= rows.row_bytes; at += LINE_BYTES) {
        for (int row = 0; row < ROWS; ++row) {
            prefetch_line(later[row] + at);
            uint64_t line[LINE_BYTES / 8];
            std::memcpy(line, now[row] + at, LINE_BYTES);
            for (int64_t word = 0; word < LINE_BYTES / 8; ++word) words[word] ^= line[word];
        }
    }
    for (; at < rows.row_bytes; ++at)
        for (int row = 0; row < ROWS; ++row) seen ^= uint8_t(now[row][at]);
    for (uint64_t word : words) seen ^= word;
    return seen;
}

}  // namespace

// Returns all that was read, combined, so that none of it can be left out.
extern "C" uint64_t membench_read_rows(const void* table, const int64_t* numbers, int64_t count, int64_t row_bytes,
                                       int threads) {
    const Rows rows{static_cast<const char*>(table), numbers, count, row_bytes};
    const int64_t together = count / TOGETHER;
    uint64_t seen = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic, FOURS_A_TASK) reduction(^ : seen)
    for (int64_t four = 0; four < together; ++four) seen ^= read<TOGETHER>(rows, four * TOGETHER);
    for (int64_t at = together * TOGETHER; at < count; ++at) seen ^= read<1>(rows, at);
    return seen;
}
