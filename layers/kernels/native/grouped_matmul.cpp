// Products of rows sorted by group with the groups' matrices, of bfloat16 numbers for processors that cannot multiply
// these, or of floats: see layers/kernels/native/grouped_matmul.py.
//
// Each matrix is read from memory once, as it is, and widened in registers. Sums are of fp32. No result depends on the
// number of threads: each is computed by one thread, in an order that the shapes decide.
//
// Letters: E groups (experts), R rows sorted by group, n and m the rows and columns of a matrix.

#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "dots.h"

namespace {

// Sums that stay in registers, beside what is multiplied: rows by neurons in `dots`, rows by two halves of a block in
// `scaled_sums` and `outer`.
constexpr int DOT_ROWS = REGISTERS == 32 ? 8 : 4, DOT_NEURONS = REGISTERS == 32 ? 3 : 2;
constexpr int SUM_ROWS = REGISTERS == 32 ? 12 : 5;
constexpr std::make_integer_sequence<int, SUM_ROWS> EVERY_SUM;

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

// Where in a packed block its number j stands: in the order that `block_of` gives a matrix's elements.
template <typename Element> constexpr int64_t place_in_block(int64_t j) { return j; }
template <> constexpr int64_t place_in_block<BFloat16>(int64_t j) { return j / 2 + j % 2 * LANES; }

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

    // Columns `column` to `column + BLOCK` of a row as a matrix of these elements needs them; zeros beyond the row.
    template <typename Element> void copy_block(int64_t row, int64_t column, float* out) const {
        const int64_t here = std::min(BLOCK, columns - column);
        const int64_t place = (token ? token[row] : row) * columns + column;
        if (here == BLOCK && element == (std::is_same_v<Element, float> ? 0 : 1)) {
            store_block(out, block_of(static_cast<const Element*>(values) + place));
            return;
        }
        for (int64_t j = 0; j < BLOCK; ++j) out[place_in_block<Element>(j)] = j < here ? at(row, column + j) : 0.0f;
    }
};

// What a kernel prefetches of each of its matrix rows, or of the next matrix rows: so many blocks or rows from `first` on.
// Fetching them takes as long as some tiles' arithmetic, so each tile asks for a part.
template <typename Element> struct Ahead {
    const Element* first;
    int64_t count;

    static Ahead part(const Element* first, int64_t pitch, int64_t count, int64_t number, int64_t parts) {
        const int64_t begin = count * number / parts;
        return {first + begin * pitch, count * (number + 1) / parts - begin};
    }
};

// Tiles one after the other: of each its blocks, of each block its rows.
template <typename Element>
Buffer packed_by_block(const Source& source, const Tiling& tiling, int64_t rows, int threads) {
    const int64_t blocks = whole_blocks(source.columns);
    Buffer packed = buffer(rows * blocks * BLOCK);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) collapse(2)
    for (int64_t at = 0; at < int64_t(tiling.tiles.size()); ++at)
        for (int64_t block = 0; block < blocks; ++block) {
            const Tile tile = tiling.tiles[at];
            float* out = packed.get() + (tile.first * blocks + block * tile.count) * BLOCK;
            for (int64_t row = 0; row < tile.count; ++row)
                source.copy_block<Element>(tile.first + row, block * BLOCK, out + row * BLOCK);
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

// One of the two vectors of `block_of`.
inline Floats half_of(const float* values, int half) { return load_floats(values + half * LANES); }
inline Floats half_of(const BFloat16* values, int half) {
    const Words pairs = load_words(values);
    return half ? odds_of(pairs) : evens_of(pairs);
}

// out[row][neuron] += x[row] · weight[neuron], over whole blocks. Asks for what will be needed of the matrix next.
template <typename Element, int ROWS, int NEURONS>
void dots(const float* x, const Element* weight, int64_t pitch, int64_t blocks, Ahead<Element> ahead, float* out,
          int64_t out_pitch) {
    Floats sums[NEURONS][ROWS] = {};
    for (int64_t block = 0; block < blocks; ++block, x += ROWS * BLOCK, weight += BLOCK) {
        if (block < ahead.count)
#pragma GCC unroll 8
            for (int j = 0; j < NEURONS; ++j) prefetch_line(ahead.first + j * pitch + block * BLOCK);
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            Floats w[NEURONS];
#pragma GCC unroll 8
            for (int j = 0; j < NEURONS; ++j) w[j] = half_of(weight + j * pitch, half);
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

template <typename Element>
using Dots = void (*)(const float*, const Element*, int64_t, int64_t, Ahead<Element>, float*, int64_t);

template <typename Element, int NEURONS, int... ROWS>
Dots<Element> dots_of(int64_t rows, std::integer_sequence<int, ROWS...>) {
    static constexpr Dots<Element> ways[] = {dots<Element, ROWS + 1, NEURONS>...};
    return ways[rows - 1];
}

template <typename Element> Dots<Element> dots_of(int64_t rows, int64_t neurons) {
    constexpr auto every = std::make_integer_sequence<int, DOT_ROWS>{};
    return neurons == 1   ? dots_of<Element, 1>(rows, every)
           : neurons == 2 ? dots_of<Element, 2>(rows, every)
                          : dots_of<Element, DOT_NEURONS>(rows, every);
}

// sums[neuron] = x · matrix[neuron] over whole blocks, of `neurons` of the `left` rows that follow in the matrix.
template <typename Element>
void dots_of_one(const float* x, const Element* matrix, int64_t pitch, int64_t blocks, int64_t neurons, int64_t left,
                 float* sums) {
    const int64_t ahead = rows_ahead<Element>(pitch);
    for (int64_t neuron = 0; neuron < neurons; neuron += TOGETHER) {
        const Element* rows[TOGETHER];
        const Element* later[TOGETHER];
        float found[TOGETHER];
        for (int64_t j = 0; j < TOGETHER; ++j) {
            rows[j] = matrix + std::min(neuron + j, neurons - 1) * pitch;
            later[j] = matrix + std::min(neuron + j + ahead, left - 1) * pitch;
        }
        dot_rows<TOGETHER>(x, rows, AskedFor<Element>{later}, blocks * BLOCK, found);
        std::copy_n(found, std::min(TOGETHER, neurons - neuron), sums + neuron);
    }
}

template <typename Element>
void grouped_linear(const Source& source, const Groups& groups, const void* weight_, int64_t n, void* out,
                    int out_element, int threads) {
    const Element* weight = static_cast<const Element*>(weight_);
    const int64_t m = source.columns, blocks = whole_blocks(m), full = m / BLOCK;
    const Tiling tiling(groups, DOT_ROWS);
    const Buffer x = packed_by_block<Element>(source, tiling, groups.all_rows(), threads);
    const int64_t chunks = (n + MATRIX_ROWS - 1) / MATRIX_ROWS;
    const std::vector<int64_t> chosen = groups.chosen();
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> sums;
        Element last[DOT_NEURONS * BLOCK];  // what is left of some neurons after their whole blocks, and zeros
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < int64_t(chosen.size()) * chunks; ++task) {
            const int64_t group = chosen[task / chunks], rows = groups.rows(group), first_row = groups.begin(group);
            const int64_t first = task % chunks * MATRIX_ROWS, neurons = std::min(MATRIX_ROWS, n - first);
            const Element* matrix = weight + (group * n + first) * m;
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
                        const Dots<Element> way = dots_of<Element>(tile.count, count);
                        float* sum = sums.data() + (tile.first - first_row) * MATRIX_ROWS + neuron;
                        const Element* there = matrix + neuron * m + block * BLOCK;
                        const int64_t number = at - tiling.starts[group];
                        const int64_t later = std::min(step, full - block - step);
                        const Ahead<Element> ahead =
                            later > 0 ? Ahead<Element>::part(there + step * BLOCK, BLOCK, later, number, tiles)
                                      : Ahead<Element>{there + DOT_NEURONS * m, number ? 0 : whole};
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
template <typename Element, int ROWS>
void scaled_sums(const float* x, const Element* weight, int64_t pitch, int64_t count, Ahead<Element> ahead, float* out,
                 int64_t out_pitch) {
    Floats firsts[ROWS], seconds[ROWS];
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) {
        firsts[i] = load_floats(out + i * out_pitch);
        seconds[i] = load_floats(out + i * out_pitch + LANES);
    }
    for (int64_t k = 0; k < count; ++k, x += ROWS, weight += pitch) {
        const Floats first = half_of(weight, 0), second = half_of(weight, 1);
        if (k < ahead.count) prefetch_line(ahead.first + k * pitch);
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i) {
            firsts[i] += x[i] * first;
            seconds[i] += x[i] * second;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) {
        store_floats(out + i * out_pitch, firsts[i]);
        store_floats(out + i * out_pitch + LANES, seconds[i]);
    }
}

template <typename Element>
using ScaledSums = void (*)(const float*, const Element*, int64_t, int64_t, Ahead<Element>, float*, int64_t);

template <typename Element, int... ROWS>
ScaledSums<Element> scaled_sums_of(int64_t rows, std::integer_sequence<int, ROWS...>) {
    static constexpr ScaledSums<Element> ways[] = {scaled_sums<Element, ROWS + 1>...};
    return ways[rows - 1];
}

// The first numbers of a block of sums, back in the order of a matrix.
void store_columns(BFloat16* out, Block sums, int64_t columns, bool past_caches) {
    const Words words = narrowed(sums.first, sums.second);
    if (columns >= BLOCK && past_caches)
        store_past_caches(out, words);
    else
        std::memcpy(out, &words, std::min(columns, BLOCK) * sizeof(BFloat16));
}

// What is of floats is small, or is read again soon: it stays in the caches.
void store_columns(float* out, Block sums, int64_t columns, bool) {
    if (columns >= BLOCK) {
        store_block(out, sums);
        return;
    }
    float values[BLOCK];
    store_block(values, sums);
    std::copy_n(values, columns, out);
}

// Long stretches, but as many for each thread where there are few. Each column is summed by itself, whatever the parts.
int64_t columns_of_a_task(int64_t m, int64_t groups, int64_t threads) {
    int64_t chunks = (m + SUM_COLUMNS - 1) / SUM_COLUMNS;
    if (groups * chunks < 4 * threads) chunks = (chunks + threads - 1) / threads * threads;
    const int64_t blocks = (m + chunks * BLOCK - 1) / (chunks * BLOCK);
    return std::max<int64_t>(blocks, 8) * BLOCK;
}

template <typename Element>
void grouped_product(const Source& source, const Groups& groups, const void* weight_, int64_t m, void* out_,
                     int threads) {
    const Element* weight = static_cast<const Element*>(weight_);
    Element* out = static_cast<Element*>(out_);
    const int64_t n = source.columns;
    const Tiling tiling(groups, SUM_ROWS);
    const Buffer x = packed_by_column(source, tiling, groups.all_rows(), threads);
    const int64_t part = columns_of_a_task(m, groups.count, threads), chunks = (m + part - 1) / part;
    const std::vector<int64_t> chosen = groups.chosen();
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> sums;
        Element last[MATRIX_ROWS * BLOCK];  // what is left of some rows after their whole blocks, and zeros
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < int64_t(chosen.size()) * chunks; ++task) {
            const int64_t group = chosen[task / chunks], rows = groups.rows(group), first_row = groups.begin(group);
            const int64_t first = task % chunks * part, columns = std::min(part, m - first);
            const Element* matrix = weight + group * n * m + first;
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
                    const ScaledSums<Element> way = scaled_sums_of<Element>(tile.count, EVERY_SUM);
                    const float* here = x.get() + tile.first * n + k * tile.count;
                    float* sum = sums.data() + (tile.first - first_row) * pitch;
                    for (int64_t column = 0; column < columns; column += BLOCK) {
                        if (column + BLOCK > columns) {
                            way(here, last, BLOCK, count, {}, sum + column, pitch);
                            continue;
                        }
                        const Element* there = matrix + k * m + column;
                        const int64_t later = std::clamp<int64_t>(n - k - step, 0, step);
                        const auto ahead = Ahead<Element>::part(there + step * m, m, later, at - tiling.starts[group], tiles);
                        way(here, there, m, count, ahead, sum + column, pitch);
                    }
                }
            }
            for (int64_t row = 0; row < rows; ++row)
                for (int64_t column = 0; column < columns; column += BLOCK) {
                    const float* sum = sums.data() + row * pitch + column;
                    store_columns(out + (first_row + row) * m + first + column, block_of(sum), columns - column, false);
                }
        }
    }
}

// ------------------------------------------------------------------------------------- rows^T times rows, a gradient

// out[neuron], a block, = the sum over rows of y[row][neuron] · x[row].
template <typename Element, int NEURONS>
void outer(const float* y, const float* x, int64_t rows, Element* out, int64_t pitch, int64_t columns) {
    Floats firsts[NEURONS] = {}, seconds[NEURONS] = {};
    for (int64_t row = 0; row < rows; ++row, y += NEURONS, x += BLOCK) {
        const Floats first = load_floats(x), second = load_floats(x + LANES);
#pragma GCC unroll 16
        for (int j = 0; j < NEURONS; ++j) {
            firsts[j] += y[j] * first;
            seconds[j] += y[j] * second;
        }
    }
#pragma GCC unroll 16
    for (int j = 0; j < NEURONS; ++j) store_columns(out + j * pitch, {firsts[j], seconds[j]}, columns, true);
}

template <typename Element> using Outer = void (*)(const float*, const float*, int64_t, Element*, int64_t, int64_t);

template <typename Element, int... NEURONS>
Outer<Element> outer_of(int64_t neurons, std::integer_sequence<int, NEURONS...>) {
    static constexpr Outer<Element> ways[] = {outer<Element, NEURONS + 1>...};
    return ways[neurons - 1];
}

template <typename Element>
void grouped_gradients(const Source& y, const Source& x, const Groups& groups, void* out_, int threads) {
    Element* out = static_cast<Element*>(out_);
    const int64_t n = y.columns, m = x.columns, blocks = whole_blocks(m);
    const Tiling whole_groups(groups, std::max<int64_t>(groups.all_rows(), 1));
    const Buffer packed = packed_by_block<Element>(x, whole_groups, groups.all_rows(), threads);
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
                    const Outer<Element> way = outer_of<Element>(count, EVERY_SUM);
                    Element* gradient = out + (group * n + first + neuron) * m;
                    for (int64_t block = from; block < std::min(blocks, from + step); ++block)
                        way(factors.data() + neuron * rows, here + block * rows * BLOCK, rows, gradient + block * BLOCK, m,
                            m - block * BLOCK);
                }
        }
        finish_stores_past_caches();
    }
}

}  // namespace

// Calls `function<Element>` for the number of a matrix's element, float or bfloat16.
#define FOR_MATRIX(element, function, ...) \
    if (element == 0)                      \
        function<float>(__VA_ARGS__);      \
    else                                   \
        function<BFloat16>(__VA_ARGS__);

extern "C" {

// out (R, n), fp32 or bfloat16, of rows x (R, m), or tokens of which `token` (R,) says each row's, and weight (E, n, m).
void membench_grouped_linear(int element, const void* x, const int64_t* token, int of_weight, const void* weight,
                             const int32_t* ends, int64_t count, int64_t n, int64_t m, int out_element, void* out,
                             int threads) {
    FOR_MATRIX(of_weight, grouped_linear, {x, element, token, m}, {count, ends}, weight, n, out, out_element, threads)
}

// The same with matrices that are not transposed: out (R, m), of the weight's dtype, of x (R, n) and weight (E, n, m).
void membench_grouped_product(int element, const void* x, const int64_t* token, int of_weight, const void* weight,
                              const int32_t* ends, int64_t count, int64_t n, int64_t m, void* out, int threads) {
    FOR_MATRIX(of_weight, grouped_product, {x, element, token, n}, {count, ends}, weight, m, out, threads)
}

// out (E, n, m) of a dtype: of each group its rows of y (R, n), transposed, times those of x (R, m).
void membench_grouped_gradients(int y_element, const void* y, const int64_t* y_token, int x_element, const void* x,
                                const int64_t* x_token, const int32_t* ends, int64_t count, int64_t n, int64_t m,
                                int out_element, void* out, int threads) {
    FOR_MATRIX(out_element, grouped_gradients, {y, y_element, y_token, n}, {x, x_element, x_token, m}, {count, ends}, out,
               threads)
}

}  // extern "C"
