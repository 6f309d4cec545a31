// The best k sums of two score lists: see layers/kernels/top_k.py.
//
// A list is read for a threshold that at least k of its scores reach and few others do, and for the largest of every
// stretch of it; then what reaches the threshold is read again, from the cache. What is left, some 40 of 1024 scores at
// k = 32, is ordered by counting, for each, how many are better: a square of comparisons, but vectors of them and no
// branch.
//
// Letters: H heads, B tokens, n sub-keys a half, k rows a head, m a number of survivors.

#include <algorithm>
#include <cmath>
#include <vector>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "choosing.h"
#include "exponentials.h"
#include "ranks.h"
#include "vectors.h"

namespace {

constexpr int64_t VECTOR = 16;
constexpr int TOGETHER = 4;  // vectors of maxima; registers hold twice as many
constexpr int64_t ROUND = TOGETHER * LANES;
constexpr int LINE = 16;  // floats of a cache line
constexpr int64_t MOST_LANES = 256;

inline float score_of(int32_t key) { return float_of(uint32_t(key ^ ((key >> 31) & 0x7fffffff))); }

using ::sortable;  // of a float

inline int64_t sortable(double score) {
    const double positive_zero = score + 0.0;
    int64_t bits;
    std::memcpy(&bits, &positive_zero, sizeof bits);
    return score != score ? INT64_MAX : bits ^ ((bits >> 63) & INT64_MAX);
}

// The second where the first is a NaN.
inline Floats larger(Floats first, Floats second) {
#if defined(__AVX512F__)
    return (Floats)_mm512_max_ps((__m512)first, (__m512)second);
#elif defined(__AVX__)
    return (Floats)_mm256_max_ps((__m256)first, (__m256)second);
#else
    return first > second ? first : second;
#endif
}

// Of a vector of scores a bit each: those that are not below the threshold.
inline uint64_t reaching(Floats scores, float threshold) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)scores, _mm512_set1_ps(threshold), _CMP_NLT_UQ);
#elif defined(__AVX__)
    return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps((__m256)scores, _mm256_set1_ps(threshold), _CMP_NLT_UQ)));
#else
    uint64_t reach = 0;
    for (int i = 0; i < LANES; ++i) reach |= uint64_t(!(scores[i] < threshold)) << i;
    return reach;
#endif
}

// The same of a round of them.
inline uint64_t reaching(const float* scores, float threshold) {
    uint64_t reach = 0;
    for (int i = 0; i < TOGETHER; ++i) reach |= reaching(load_floats(scores + i * LANES), threshold) << (i * LANES);
    return reach;
}

// Of sums (k,), the largest of which is the first.
inline void softmax(const float* sums, int64_t k, float* weights) {
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < k; ++i) total += weights[i] = exp_of(sums[i] - sums[0]);
#pragma omp simd
    for (int64_t i = 0; i < k; ++i) weights[i] /= total;
}

// The best k of a list, best first: keys and indices.
class BestOf {
  public:
    BestOf(int64_t k, int64_t count)
        : keys(k + 1), indices(k + 1), k_(k), lanes_((2 * k + ROUND - 1) / ROUND * ROUND), maxima_(lanes_),
          of_rounds_(count / TOGETHER + LANES), found_(count + VECTOR), rounds_(count / ROUND + 1), keyed_(lanes_ + VECTOR),
          kept_(count + VECTOR), places_(count + VECTOR), rank_(std::max(count, lanes_) + VECTOR) {}

    void find(const float* scores, int64_t count) {
        const int64_t left = collect(scores, threshold(scores, count), count);
        rank_all(kept_.data(), left, rank_.data(), order_, [](int32_t a, int32_t b) { return a < b; });
        for (int64_t i = 0; i < left; ++i) {
            const int64_t place = std::min<int64_t>(rank_[i], k_);
            keys[place] = kept_[i];
            indices[place] = places_[i];
        }
    }

    std::vector<int32_t> keys, indices;  // k of them, and what is not among them

  private:
    // A score that at least k of the list reach: the k-th largest of the maxima of 2k or more interleaved parts. Where it
    // says nothing, or a score is none, -inf; which NaNs reach.
    float threshold(const float* scores, int64_t count) {
        if (count < 2 * lanes_ || lanes_ > MOST_LANES) return -INFINITY;
        if (largest_of_lanes(scores, count)) return -INFINITY;
#pragma omp simd
        for (int64_t lane = 0; lane < lanes_; ++lane) keyed_[lane] = sortable(maxima_[lane]);
        const int32_t *maxima = keyed_.data(), k = int32_t(k_);
        int32_t* rank = rank_.data();
        count_all_above(maxima, lanes_, rank);
        int32_t least = INT32_MAX;
#pragma omp simd reduction(min : least)
        for (int64_t lane = 0; lane < lanes_; ++lane) {
            const int32_t maximum = maxima[lane];
            least = std::min(least, rank[lane] < k ? maximum : INT32_MAX);
        }
        return score_of(least);
    }

    // The list behind a list is asked for while it is read: it is the next token's, and memory gives pages that lie side
    // by side too late where nobody asks. Half of it while maxima are taken, half while rounds are chosen: asked for at
    // once, it would keep the first waiting, and memory would rest during the second.
    static void ask_for(const float* scores, int64_t count) {
        for (int64_t line = 0; line < count; line += LINE) __builtin_prefetch(scores + line);
    }

    // Fills `maxima_` and `of_rounds_`, of all scores that make whole rounds of lanes. Returns whether one of the list is a NaN.
    bool largest_of_lanes(const float* scores, int64_t count) {
        const int64_t whole = count / lanes_ * lanes_;
        const float* behind = scores + count;
        Words none = {};
        int64_t lane = 0;
        for (; lane + 2 * ROUND <= lanes_; lane += 2 * ROUND) none |= maxima_from<2 * TOGETHER>(scores, lane, whole, behind);
        if (lane < lanes_) none |= maxima_from<TOGETHER>(scores, lane, whole, behind);
        uint32_t any = 0;
        for (int i = 0; i < LANES; ++i) any |= none[i];
        for (int64_t i = whole; i < count; ++i) any |= scores[i] != scores[i];
        return any != 0;
    }

    // Of so many vectors of lanes from one on, in registers; and of every round that they are in, its vectors' largest.
    template <int VECTORS> Words maxima_from(const float* scores, int64_t lane, int64_t whole, const float* behind) {
        Floats largest[VECTORS];
        Words none = {};
        for (Floats& each : largest) each = Floats{} - INFINITY;
        for (int64_t from = lane; from < whole; from += lanes_) {
            ask_for(behind + from / 2, VECTORS * LANES / 2);
            for (int first = 0; first < VECTORS; first += TOGETHER) {
                Floats found[TOGETHER];
                for (int i = 0; i < TOGETHER; ++i) {
                    found[i] = load_floats(scores + from + (first + i) * LANES);
                    largest[first + i] = larger(found[i], largest[first + i]);
                }
                for (int i = 0; i < TOGETHER; i += 2)
                    none |= (Words)(found[i] != found[i]) | (Words)(found[i + 1] != found[i + 1]);
                const Floats of_round = larger(larger(found[0], found[1]), larger(found[2], found[3]));
                store_floats(&of_rounds_[(from / ROUND + first / TOGETHER) * LANES], of_round);
            }
        }
        for (int i = 0; i < VECTORS; ++i) store_floats(&maxima_[lane + i * LANES], largest[i]);
        return none;
    }

    // Scores that are not below the threshold, in the order of the list, as keys. Of most rounds none is, which their
    // maxima tell.
    int64_t collect(const float* scores, float threshold, int64_t count) {
        int64_t left = 0, read_again = 0;
        const int64_t known = threshold == -INFINITY ? 0 : count / lanes_ * lanes_ / ROUND, rounds = count / ROUND;
        for (int64_t round = 0; round < known; ++round) {
            rounds_[read_again] = int32_t(round);
            ask_for(scores + count + (count + round * ROUND) / 2, ROUND / 2);
            read_again += reaching(load_floats(&of_rounds_[round * LANES]), threshold) != 0;
        }
        for (int64_t round = known; round < rounds; ++round) rounds_[read_again++] = int32_t(round);
        for (int64_t j = 0; j < read_again; ++j) {
            const int64_t from = int64_t(rounds_[j]) * ROUND;
            for (uint64_t reach = reaching(scores + from, threshold); reach; reach &= reach - 1) {
                const int64_t place = from + __builtin_ctzll(reach);
                found_[left] = scores[place];
                places_[left++] = int32_t(place);
            }
        }
        for (int64_t i = rounds * ROUND; i < count; ++i) {
            found_[left] = scores[i];
            places_[left] = int32_t(i);
            left += !(scores[i] < threshold);
        }
#pragma omp simd
        for (int64_t j = 0; j < left; ++j) kept_[j] = sortable(found_[j]);
        return left;
    }

    int64_t k_, lanes_;
    std::vector<float> maxima_, of_rounds_, found_;
    std::vector<int32_t> rounds_, keyed_, kept_, places_, rank_, order_;
};

struct Candidate {
    int32_t first, second;  // places in the halves' lists
};

// The best k sums of two sorted lists. A pair (i, j) can be among them only if (i + 1)(j + 1) <= k.
class BestPairs {
  public:
    explicit BestPairs(int64_t k) : best(k + 1), k_(k), corner_(k), first_(k), second_(k + STEP) {
        for (int32_t i = 0; i < k; ++i) {
            corner_[i] = (k + i) / (i + 1) - 1;
            for (int32_t j = 0; (i + 1) * (j + 1) <= k; ++j) candidates_.push_back({i, j});
        }
        const size_t room = candidates_.size() + VECTOR;
        for (auto* each : {&sums_, &found_}) each->resize(room);
        for (auto* each : {&kept_, &places_, &rank_}) each->resize(room);
        exact_.resize(room);
    }

    void find(const BestOf& first, const BestOf& second) {
        // In double: rounded to float, sums could tie outside the candidates.
        for (int64_t i = 0; i < k_; ++i) {
            first_[i] = score_of(first.keys[i]);
            second_[i] = score_of(second.keys[i]);
        }
        const bool finite = std::isfinite(first_[0]) && std::isfinite(first_[k_ - 1]) && std::isfinite(second_[0]) &&
                            std::isfinite(second_[k_ - 1]);
        if (!finite || !find_rounded()) find_exactly(first, second);
    }

    std::vector<Candidate> best;  // k of them, and one that is not among them

  private:
    static constexpr int STEP = 4;
    typedef double Doubles __attribute__((vector_size(STEP * sizeof(double))));
    typedef float Rounded __attribute__((vector_size(STEP * sizeof(float))));

    // By sums of finite scores, rounded to float: where no two of those that may be among the best are equal, it is the
    // order of the sums themselves. Returns whether none are.
    bool find_rounded() {
        // (i + 1)(j + 1) pairs are no worse than (i, j): where those are k or more, its sum bounds the k-th best
        double bound = -INFINITY;
        for (int64_t i = 0; i < k_; ++i) bound = std::max(bound, first_[i] + second_[corner_[i]]);
        float* sums = sums_.data();
        for (int64_t i = 0; i < k_; ++i) {
            const int64_t seconds = k_ / (i + 1);
            for (int64_t j = 0; j < seconds; j += STEP) {  // what is past the row's end is overwritten by the next
                Doubles second;
                std::memcpy(&second, &second_[j], sizeof second);
                const Rounded sum = __builtin_convertvector(first_[i] + second, Rounded);
                std::memcpy(sums + j, &sum, sizeof sum);
            }
            sums += seconds;
        }
        const float least = float(bound);
        const int64_t candidates = int64_t(candidates_.size());
        int64_t left = 0;
        for (int64_t c = 0; c < candidates; ++c) {
            found_[left] = sums_[c];
            places_[left] = int32_t(c);
            left += sums_[c] >= least;
        }
#pragma omp simd
        for (int64_t i = 0; i < left; ++i) kept_[i] = sortable(found_[i]);
        if (left > MOST_COUNTED || !count_all_above_once(kept_.data(), left, rank_.data())) return false;
        place(left);
        return true;
    }

    // Of equal sums the lower row first: the lower index of the first half, then of the second.
    void find_exactly(const BestOf& first, const BestOf& second) {
        const int64_t candidates = int64_t(candidates_.size());
        for (int64_t c = 0; c < candidates; ++c) {
            exact_[c] = sortable(first_[candidates_[c].first] + second_[candidates_[c].second]);
            places_[c] = int32_t(c);
        }
        rank_all(exact_.data(), candidates, rank_.data(), order_, [&](int32_t a, int32_t b) {
            const Candidate one = candidates_[a], other = candidates_[b];
            const int32_t row = first.indices[one.first], other_row = first.indices[other.first];
            return row != other_row ? row < other_row : second.indices[one.second] < second.indices[other.second];
        });
        place(candidates);
    }

    void place(int64_t left) {
        for (int64_t i = 0; i < left; ++i) best[std::min<int64_t>(rank_[i], k_)] = candidates_[places_[i]];
    }

    int64_t k_;
    std::vector<int64_t> corner_;  // of candidate pairs (i, j) the first that k pairs are no worse than
    std::vector<Candidate> candidates_;
    std::vector<double> first_, second_;  // the halves' scores
    std::vector<float> sums_, found_;
    std::vector<int64_t> exact_;
    std::vector<int32_t> kept_, places_, rank_, order_;
};

}  // namespace

void choose(const Choice& given, const float* scores, int64_t tasks_a_turn, int32_t* halves, float* weights) {
    const int64_t tokens = given.tokens, n = given.sub_keys, k = given.top_k;
    int32_t* second_half = halves + tokens * given.heads * k;
    BestOf first(k, n), second(k, n);
    BestPairs pairs(k);
    std::vector<float> sums(k);
#pragma omp for schedule(dynamic, tasks_a_turn)
    for (int64_t task = 0; task < given.heads * tokens; ++task) {
        const int64_t head = task / tokens, token = task % tokens;
        first.find(scores + ((head * 2) * tokens + token) * n, n);
        second.find(scores + ((head * 2 + 1) * tokens + token) * n, n);
        pairs.find(first, second);
        const int64_t out = (token * given.heads + head) * k;
        for (int64_t i = 0; i < k; ++i) {
            const Candidate pair = pairs.best[i];
            halves[out + i] = first.indices[pair.first];
            second_half[out + i] = second.indices[pair.second];
            sums[i] = score_of(first.keys[pair.first]) + score_of(second.keys[pair.second]);
        }
        softmax(sums.data(), k, weights + out);
    }
}

extern "C" void membench_product_key_top_k(const float* scores, int64_t heads, int64_t tokens, int64_t count, int64_t k,
                                           int32_t* halves, float* weights, int threads) {
    const Choice given{heads, tokens, count, k};
    threads = useful_threads(threads, given.multiplications());
#pragma omp parallel num_threads(threads)
    choose(given, scores, 16, halves, weights);
}
