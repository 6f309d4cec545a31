// Products of few rows with large bfloat16 matrices, for processors that cannot multiply bfloat16 numbers: see
// layers/kernels/native/grouped_matmul.py.
//
// Each matrix is read from memory once, as it is, and widened in registers. Sums are of fp32. No result depends on the
// number of threads: each is computed by one thread, in an order that the shapes decide.
//
// Letters: E groups (experts), R rows sorted by group, n and m the rows and columns of a matrix.

#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "dots.h"

namespace {

// Sums that stay in registers, beside what is multiplied: rows by neurons in `dots`, rows by two halves of a block in
// `scaled_sums` and `outer`.
constexpr int DOT_ROWS = REGISTERS == 32 ? 8 : 4, DOT_NEURONS = REGISTERS == 32 ? 3 : 2;
constexpr int SUM_ROWS = REGISTERS == 32 ? 12 : 5;

constexpr int64_t DOT_COLUMNS = 1024;    // so many columns of DOT_ROWS rows stay in the first-level cache
constexpr int64_t MATRIX_ROWS = 64;      // of a matrix that stay in the second-level cache until all rows have used them
constexpr int64_t SUM_COLUMNS = 2048;    // of a task of `scaled_sums`: a stretch of memory that prefetching likes
constexpr int64_t FEW_ROWS = 8;
constexpr int64_t CACHED_FLOATS = 1 << 16;

int64_t whole_blocks(int64_t columns) { return (columns + BLOCK - 1) / BLOCK; }

struct Deleter {
    void operator()(float* floats) const { ::operator delete[](floats, std::align_val_t(LINE_BYTES)); }
};
using Buffer = std::unique_ptr<float[], Deleter>;

Buffer buffer(int64_t count) {
    return Buffer(static_cast<float*>(::operator new[](std::max<int64_t>(count, 1) * sizeof(float), std::align_val_t(LINE_BYTES))));
}

// Some neighbouring rows of one group; a group of many is cut into tiles of nearly the same size.
struct Tile {
    int64_t first, count;
};

struct Groups {
    int64_t count;
    const int32_t* ends;

    int64_t begin(int64_t group) const { return group ? ends[group - 1] : 0; }
    int64_t rows(int64_t group) const { return ends[group] - begin(group); }
    int64_t all_rows() const { return count ? ends[count - 1] : 0; }

    // Those that have rows: few tokens choose a few of many experts, and threads that ask for tasks wait for each other.
    std::vector<int64_t> chosen() const {
        std::vector<int64_t> found;
        for (int64_t group = 0; group < count; ++group)
            if (rows(group)) found.push_back(group);
        return found;
    }
};

struct Tiling {
    std::vector<Tile> tiles;
    std::vector<int64_t> starts;  // of each group's tiles, and their number

    Tiling(const Groups& groups, int64_t most) : starts{0} {
        for (int64_t group = 0; group < groups.count; ++group) {
            const int64_t rows = groups.rows(group), parts = (rows + most - 1) / most;
            for (int64_t part = 0; part < parts; ++part) {
                const int64_t first = rows * part / parts;
                tiles.push_back({groups.begin(group) + first, rows * (part + 1) / parts - first});
            }
            starts.push_back(int64_t(tiles.size()));
        }
    }
};

// The rows that are multiplied: fp32 or bfloat16, gathered by `token` unless it is null.
struct Source {
    const void* values;
    int element;
    const int64_t* token;
    int64_t columns;

    float at(int64_t row, int64_t column) const {
        const int64_t place = (token ? token[row] : row) * columns + column;
        return element == 0 ? static_cast<const float*>(values)[place] : widen(static_cast<const BFloat16*>(values)[place]);
    }

    // Columns `column` to `column + BLOCK` of a row, first those at even places; zeros beyond the row.
    void copy_block(int64_t row, int64_t column, float* out) const {
        const int64_t here = std::min(BLOCK, columns - column);
        if (here == BLOCK && element == 1) {
            const Words pairs = load_words(static_cast<const BFloat16*>(values) + (token ? token[row] : row) * columns + column);
            store_floats(out, evens_of(pairs));
            store_floats(out + LANES, odds_of(pairs));
            return;
        }
        for (int64_t j = 0; j < BLOCK; ++j) out[j / 2 + j % 2 * LANES] = j < here ? at(row, column + j) : 0.0f;
    }
};

// What a kernel prefetches of each of its matrix rows, or of the next matrix rows: so many blocks or rows from `first` on.
// Fetching them takes as long as some tiles' arithmetic, so each tile asks for a part.
struct Ahead {
    const BFloat16* first;
    int64_t count;

    static Ahead part(const BFloat16* first, int64_t pitch, int64_t count, int64_t number, int64_t parts) {
        const int64_t begin = count * number / parts;
        return {first + begin * pitch, count * (number + 1) / parts - begin};
    }
};

// Tiles one after the other: of each its blocks, of each block its rows.
Buffer packed_by_block(const Source& source, const Tiling& tiling, int64_t rows, int threads) {
    const int64_t blocks = whole_blocks(source.columns);
    Buffer packed = buffer(rows * blocks * BLOCK);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) collapse(2)
    for (int64_t at = 0; at < int64_t(tiling.tiles.size()); ++at)
        for (int64_t block = 0; block < blocks; ++block) {
            const Tile tile = tiling.tiles[at];
            float* out = packed.get() + (tile.first * blocks + block * tile.count) * BLOCK;
            for (int64_t row = 0; row < tile.count; ++row)
                source.copy_block(tile.first + row, block * BLOCK, out + row * BLOCK);
        }
    return packed;
}

// Tiles one after the other: of each its columns, of each column its rows.
Buffer packed_by_column(const Source& source, const Tiling& tiling, int64_t rows, int threads) {
    Buffer packed = buffer(rows * source.columns);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t at = 0; at < int64_t(tiling.tiles.size()); ++at) {
        const Tile tile = tiling.tiles[at];
        float* out = packed.get() + tile.first * source.columns;
        for (int64_t column = 0; column < source.columns; ++column)
            for (int64_t row = 0; row < tile.count; ++row)
                out[column * tile.count + row] = source.at(tile.first + row, column);
    }
    return packed;
}

// ---------------------------------------------------------------------------------------------- rows times matrix^T

// out[row][neuron] += x[row] · weight[neuron], over whole blocks. Asks for what will be needed of the matrix next.
template <int ROWS, int NEURONS>
void dots(const float* x, const BFloat16* weight, int64_t pitch, int64_t blocks, Ahead ahead, float* out, int64_t out_pitch) {
    Floats sums[NEURONS][ROWS] = {};
    for (int64_t block = 0; block < blocks; ++block, x += ROWS * BLOCK, weight += BLOCK) {
        if (block < ahead.count)
#pragma GCC unroll 8
            for (int j = 0; j < NEURONS; ++j) prefetch_line(ahead.first + j * pitch + block * BLOCK);
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            Floats w[NEURONS];
#pragma GCC unroll 8
            for (int j = 0; j < NEURONS; ++j) {
                const Words pairs = load_words(weight + j * pitch);
                w[j] = half ? odds_of(pairs) : evens_of(pairs);
            }
#pragma GCC unroll 16
            for (int i = 0; i < ROWS; ++i) {
                const Floats here = loaded_once(load_floats(x + i * BLOCK + half * LANES));
#pragma GCC unroll 8
                for (int j = 0; j < NEURONS; ++j) sums[j][i] += here * w[j];
            }
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < NEURONS; ++j) add_sums<ROWS>(sums[j], out + j, out_pitch);
}

using Dots = void (*)(const float*, const BFloat16*, int64_t, int64_t, Ahead, float*, int64_t);

template <int NEURONS, int... ROWS> Dots dots_of(int64_t rows, std::integer_sequence<int, ROWS...>) {
    static constexpr Dots ways[] = {dots<ROWS + 1, NEURONS>...};
    return ways[rows - 1];
}

Dots dots_of(int64_t rows, int64_t neurons) {
    constexpr auto every = std::make_integer_sequence<int, DOT_ROWS>{};
    return neurons == 1 ? dots_of<1>(rows, every) : neurons == 2 ? dots_of<2>(rows, every) : dots_of<DOT_NEURONS>(rows, every);
}

// sums[neuron] = x · matrix[neuron] over whole blocks, of `neurons` of the `left` rows that follow in the matrix.
void dots_of_one(const float* x, const BFloat16* matrix, int64_t pitch, int64_t blocks, int64_t neurons, int64_t left,
                 float* sums) {
    const int64_t ahead = rows_ahead<BFloat16>(pitch);
    for (int64_t neuron = 0; neuron < neurons; neuron += TOGETHER) {
        const BFloat16* rows[TOGETHER];
        const BFloat16* later[TOGETHER];
        float found[TOGETHER];
        for (int64_t j = 0; j < TOGETHER; ++j) {
            rows[j] = matrix + std::min(neuron + j, neurons - 1) * pitch;
            later[j] = matrix + std::min(neuron + j + ahead, left - 1) * pitch;
        }
        dot_rows<TOGETHER>(x, rows, AskedFor<BFloat16>{later}, blocks * BLOCK, found);
        std::copy_n(found, std::min(TOGETHER, neurons - neuron), sums + neuron);
    }
}

void grouped_linear(const Source& source, const Groups& groups, const BFloat16* weight, int64_t n, void* out,
                    int out_element, int threads) {
    const int64_t m = source.columns, blocks = whole_blocks(m), full = m / BLOCK;
    const Tiling tiling(groups, DOT_ROWS);
    const Buffer x = packed_by_block(source, tiling, groups.all_rows(), threads);
    const int64_t chunks = (n + MATRIX_ROWS - 1) / MATRIX_ROWS;
    const std::vector<int64_t> chosen = groups.chosen();
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> sums;
        BFloat16 last[DOT_NEURONS * BLOCK];  // what is left of some neurons after their whole blocks, and zeros
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < int64_t(chosen.size()) * chunks; ++task) {
            const int64_t group = chosen[task / chunks], rows = groups.rows(group), first_row = groups.begin(group);
            const int64_t first = task % chunks * MATRIX_ROWS, neurons = std::min(MATRIX_ROWS, n - first);
            const BFloat16* matrix = weight + (group * n + first) * m;
            const int64_t tiles = tiling.starts[group + 1] - tiling.starts[group];
            sums.assign(rows * MATRIX_ROWS, 0.0f);
            if (rows == 1)
                dots_of_one(x.get() + first_row * blocks * BLOCK, matrix, m, full, neurons, n - first, sums.data());
            // the columns of one tile need not be read again, so they are taken all at once
            const int64_t step = rows <= DOT_ROWS ? std::max<int64_t>(full, 1) : DOT_COLUMNS / BLOCK;
            for (int64_t block = 0; block < blocks; block += step) {
                const int64_t whole = std::clamp<int64_t>(full - block, 0, step);
                const bool ends = block + step >= blocks && full < blocks;
                for (int64_t at = tiling.starts[group]; at < tiling.starts[group + 1]; ++at) {
                    const Tile tile = tiling.tiles[at];
                    const float* here = x.get() + (tile.first * blocks + block * tile.count) * BLOCK;
                    for (int64_t neuron = 0; neuron < neurons; neuron += DOT_NEURONS) {
                        const int64_t count = std::min<int64_t>(DOT_NEURONS, neurons - neuron);
                        const Dots way = dots_of(tile.count, count);
                        float* sum = sums.data() + (tile.first - first_row) * MATRIX_ROWS + neuron;
                        const BFloat16* there = matrix + neuron * m + block * BLOCK;
                        const int64_t number = at - tiling.starts[group];
                        const Ahead ahead = block + step < full
                                                ? Ahead::part(there + step * BLOCK, BLOCK, std::min(step, full - block - step), number, tiles)
                                                : Ahead{there + DOT_NEURONS * m, number ? 0 : whole};
                        if (rows > 1) way(here, there, m, whole, ahead, sum, MATRIX_ROWS);
                        if (!ends) continue;
                        std::memset(last, 0, sizeof last);
                        for (int64_t j = 0; j < count; ++j)
                            std::copy_n(matrix + (neuron + j) * m + full * BLOCK, m - full * BLOCK, last + j * BLOCK);
                        way(here + whole * tile.count * BLOCK, last, BLOCK, 1, {}, sum, MATRIX_ROWS);
                    }
                }
            }
            for (int64_t row = 0; row < rows; ++row) {
                const float* sum = sums.data() + row * MATRIX_ROWS;
                const int64_t place = (first_row + row) * n + first;
                if (out_element == 0)
                    std::copy_n(sum, neurons, static_cast<float*>(out) + place);
                else
                    narrow_all(sum, static_cast<BFloat16*>(out) + place, neurons);
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------ rows times matrix

// sums[row], a block in packed order, += the sum over k of x[k][row] · weight[k].
template <int ROWS>
void scaled_sums(const float* x, const BFloat16* weight, int64_t pitch, int64_t count, Ahead ahead, float* out,
                 int64_t out_pitch) {
    Floats evens[ROWS], odds[ROWS];
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) {
        evens[i] = load_floats(out + i * out_pitch);
        odds[i] = load_floats(out + i * out_pitch + LANES);
    }
    for (int64_t k = 0; k < count; ++k, x += ROWS, weight += pitch) {
        const Words pairs = load_words(weight);
        const Floats even = evens_of(pairs), odd = odds_of(pairs);
        if (k < ahead.count) prefetch_line(ahead.first + k * pitch);
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i) {
            evens[i] += x[i] * even;
            odds[i] += x[i] * odd;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) {
        store_floats(out + i * out_pitch, evens[i]);
        store_floats(out + i * out_pitch + LANES, odds[i]);
    }
}

using ScaledSums = void (*)(const float*, const BFloat16*, int64_t, int64_t, Ahead, float*, int64_t);

template <int... ROWS> ScaledSums scaled_sums_of(int64_t rows, std::integer_sequence<int, ROWS...>) {
    static constexpr ScaledSums ways[] = {scaled_sums<ROWS + 1>...};
    return ways[rows - 1];
}

void store_block(BFloat16* out, Floats evens, Floats odds, int64_t columns, bool past_caches) {
    const Words words = narrowed(evens, odds);
    if (columns >= BLOCK && past_caches)
        store_past_caches(out, words);
    else
        std::memcpy(out, &words, std::min(columns, BLOCK) * sizeof(BFloat16));
}

// Long stretches, but as many for each thread where there are few. Each column is summed by itself, whatever the parts.
int64_t columns_of_a_task(int64_t m, int64_t groups, int64_t threads) {
    int64_t chunks = (m + SUM_COLUMNS - 1) / SUM_COLUMNS;
    if (groups * chunks < 4 * threads) chunks = (chunks + threads - 1) / threads * threads;
    const int64_t blocks = (m + chunks * BLOCK - 1) / (chunks * BLOCK);
    return std::max<int64_t>(blocks, 8) * BLOCK;
}

void grouped_product(const Source& source, const Groups& groups, const BFloat16* weight, int64_t m, BFloat16* out,
                     int threads) {
    const int64_t n = source.columns;
    const Tiling tiling(groups, SUM_ROWS);
    const Buffer x = packed_by_column(source, tiling, groups.all_rows(), threads);
    const int64_t part = columns_of_a_task(m, groups.count, threads), chunks = (m + part - 1) / part;
    const std::vector<int64_t> chosen = groups.chosen();
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> sums;
        BFloat16 last[MATRIX_ROWS * BLOCK];  // what is left of some rows after their whole blocks, and zeros
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < int64_t(chosen.size()) * chunks; ++task) {
            const int64_t group = chosen[task / chunks], rows = groups.rows(group), first_row = groups.begin(group);
            const int64_t first = task % chunks * part, columns = std::min(part, m - first);
            const BFloat16* matrix = weight + group * n * m + first;
            const int64_t pitch = whole_blocks(columns) * BLOCK, tiles = tiling.starts[group + 1] - tiling.starts[group];
            sums.assign(rows * pitch, 0.0f);
            // few rows wait for memory, which likes long stretches; many should not load and store their sums too often
            const int64_t step = rows <= FEW_ROWS ? MATRIX_ROWS / 8 : MATRIX_ROWS;
            for (int64_t k = 0; k < n; k += step) {
                const int64_t count = std::min(step, n - k);
                if (columns % BLOCK) {
                    std::memset(last, 0, sizeof last);
                    for (int64_t j = 0; j < count; ++j)
                        std::copy_n(matrix + (k + j) * m + columns / BLOCK * BLOCK, columns % BLOCK, last + j * BLOCK);
                }
                for (int64_t at = tiling.starts[group]; at < tiling.starts[group + 1]; ++at) {
                    const Tile tile = tiling.tiles[at];
                    const ScaledSums way = scaled_sums_of(tile.count, std::make_integer_sequence<int, SUM_ROWS>{});
                    const float* here = x.get() + tile.first * n + k * tile.count;
                    float* sum = sums.data() + (tile.first - first_row) * pitch;
                    for (int64_t column = 0; column < columns; column += BLOCK) {
                        if (column + BLOCK > columns) {
                            way(here, last, BLOCK, count, {}, sum + column, pitch);
                            continue;
                        }
                        const BFloat16* there = matrix + k * m + column;
                        const Ahead ahead = Ahead::part(there + step * m, m, std::clamp<int64_t>(n - k - step, 0, step),
                                                        at - tiling.starts[group], tiles);
                        way(here, there, m, count, ahead, sum + column, pitch);
                    }
                }
            }
            for (int64_t row = 0; row < rows; ++row)
                for (int64_t column = 0; column < columns; column += BLOCK) {
                    const float* sum = sums.data() + row * pitch + column;
                    store_block(out + (first_row + row) * m + first + column, load_floats(sum), load_floats(sum + LANES),
                                columns - column, false);
                }
        }
    }
}

// ------------------------------------------------------------------------------------- rows^T times rows, a gradient

// out[neuron], a block, = the sum over rows of y[row][neuron] · x[row].
template <int NEURONS>
void outer(const float* y, const float* x, int64_t rows, BFloat16* out, int64_t pitch, int64_t columns) {
    Floats evens[NEURONS] = {}, odds[NEURONS] = {};
    for (int64_t row = 0; row < rows; ++row, y += NEURONS, x += BLOCK) {
        const Floats even = load_floats(x), odd = load_floats(x + LANES);
#pragma GCC unroll 16
        for (int j = 0; j < NEURONS; ++j) {
            evens[j] += y[j] * even;
            odds[j] += y[j] * odd;
        }
    }
#pragma GCC unroll 16
    for (int j = 0; j < NEURONS; ++j) store_block(out + j * pitch, evens[j], odds[j], columns, true);
}

using Outer = void (*)(const float*, const float*, int64_t, BFloat16*, int64_t, int64_t);

template <int... NEURONS> Outer outer_of(int64_t neurons, std::integer_sequence<int, NEURONS...>) {
    static constexpr Outer ways[] = {outer<NEURONS + 1>...};
    return ways[neurons - 1];
}

void grouped_gradients(const Source& y, const Source& x, const Groups& groups, BFloat16* out, int threads) {
    const int64_t n = y.columns, m = x.columns, blocks = whole_blocks(m);
    const Tiling whole_groups(groups, std::max<int64_t>(groups.all_rows(), 1));
    const Buffer packed = packed_by_block(x, whole_groups, groups.all_rows(), threads);
    const int64_t chunks = (n + MATRIX_ROWS - 1) / MATRIX_ROWS;
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> factors;
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < groups.count * chunks; ++task) {
            const int64_t group = task / chunks, rows = groups.rows(group), first_row = groups.begin(group);
            const int64_t first = task % chunks * MATRIX_ROWS, neurons = std::min(MATRIX_ROWS, n - first);
            factors.resize(rows * MATRIX_ROWS);
            float* factor = factors.data();
            for (int64_t neuron = 0; neuron < neurons; neuron += SUM_ROWS)
                for (int64_t row = 0; row < rows; ++row)
                    for (int64_t j = neuron; j < std::min(neurons, neuron + SUM_ROWS); ++j)
                        *factor++ = y.at(first_row + row, first + j);
            const float* here = packed.get() + first_row * blocks * BLOCK;
            const int64_t step = std::max<int64_t>(1, CACHED_FLOATS / (BLOCK * std::max<int64_t>(rows, 1)));
            for (int64_t from = 0; from < blocks; from += step)
                for (int64_t neuron = 0; neuron < neurons; neuron += SUM_ROWS) {
                    const int64_t count = std::min<int64_t>(SUM_ROWS, neurons - neuron);
                    const Outer way = outer_of(count, std::make_integer_sequence<int, SUM_ROWS>{});
                    BFloat16* gradient = out + (group * n + first + neuron) * m;
                    for (int64_t block = from; block < std::min(blocks, from + step); ++block)
                        way(factors.data() + neuron * rows, here + block * rows * BLOCK, rows, gradient + block * BLOCK, m,
                            m - block * BLOCK);
                }
        }
        finish_stores_past_caches();
    }
}

}  // namespace

extern "C" {

// out (R, n), fp32 or bfloat16, of rows x (R, m), or tokens of which `token` (R,) says each row's, and weight (E, n, m).
void membench_grouped_linear(int element, const void* x, const int64_t* token, const void* weight, const int32_t* ends,
                             int64_t count, int64_t n, int64_t m, int out_element, void* out, int threads) {
    grouped_linear({x, element, token, m}, {count, ends}, static_cast<const BFloat16*>(weight), n, out, out_element, threads);
}

// The same with matrices that are not transposed: out (R, m), bfloat16, of x (R, n) and weight (E, n, m).
void membench_grouped_product(int element, const void* x, const int64_t* token, const void* weight, const int32_t* ends,
                              int64_t count, int64_t n, int64_t m, void* out, int threads) {
    grouped_product({x, element, token, n}, {count, ends}, static_cast<const BFloat16*>(weight), m,
                    static_cast<BFloat16*>(out), threads);
}

// out (E, n, m), bfloat16: of each group its rows of y (R, n), transposed, times those of x (R, m).
void membench_grouped_gradients(int y_element, const void* y, const int64_t* y_token, int x_element, const void* x,
                                const int64_t* x_token, const int32_t* ends, int64_t count, int64_t n, int64_t m, void* out,
                                int threads) {
    grouped_gradients({y, y_element, y_token, n}, {x, x_element, x_token, m}, {count, ends}, static_cast<BFloat16*>(out),
                      threads);
}

}  // extern "C"
