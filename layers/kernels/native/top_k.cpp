// The best k sums of two score lists: see layers/kernels/top_k.py.
//
// A list is read twice, from the cache the second time: for a threshold that at least k of its scores reach
// and few others do, and for what reaches it. What is left, some 40 of 1024 scores at k = 32, is ordered by
// counting, for each, how many are better: a square of comparisons, but vectors of them and no branch.
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
        : keys(k + 1), indices(k + 1), k_(k), lanes_((2 * k + ROUND - 1) / ROUND * ROUND),
          maxima_(lanes_), found_(count + VECTOR), keyed_(lanes_ + VECTOR), kept_(count + VECTOR), places_(count + VECTOR),
          rank_(std::max(count, lanes_) + VECTOR) {}

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

    // Fills `maxima_`, of all scores that make whole rounds of lanes. Returns whether one of the list is a NaN.
    bool largest_of_lanes(const float* scores, int64_t count) {
        const int64_t whole = count / lanes_ * lanes_;
        Words none = {};
        int64_t lane = 0;
        for (; lane + 2 * ROUND <= lanes_; lane += 2 * ROUND) none |= maxima_from<2 * TOGETHER>(scores, lane, whole);
        if (lane < lanes_) none |= maxima_from<TOGETHER>(scores, lane, whole);
        uint32_t any = 0;
        for (int i = 0; i < LANES; ++i) any |= none[i];
        for (int64_t i = whole; i < count; ++i) any |= scores[i] != scores[i];
        return any != 0;
    }

    // Of so many vectors of lanes from one on, in registers. The list behind this one is asked for: it is the next
    // token's, and memory gives pages that lie side by side too late where nobody asks.
    template <int VECTORS> Words maxima_from(const float* scores, int64_t lane, int64_t whole) {
        Floats largest[VECTORS];
        Words none = {};
        for (Floats& each : largest) each = Floats{} - INFINITY;
        for (int64_t from = lane; from < whole; from += lanes_) {
            for (int line = 0; line < VECTORS * LANES; line += LINE) __builtin_prefetch(scores + whole + from + line);
            for (int i = 0; i < VECTORS; ++i) {
                const Floats found = load_floats(scores + from + i * LANES);
                none |= (Words)(found != found);
                largest[i] = larger(found, largest[i]);
            }
        }
        for (int i = 0; i < VECTORS; ++i) store_floats(&maxima_[lane + i * LANES], largest[i]);
        return none;
    }

    // Scores that are not below the threshold, in the order of the list, as keys.
    int64_t collect(const float* scores, float threshold, int64_t count) {
        int64_t left = 0, i = 0;
#ifdef __AVX512F__
        const __m512 bound = _mm512_set1_ps(threshold);
        __m512i place = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (; i + VECTOR <= count; i += VECTOR) {
            const __m512 score = _mm512_loadu_ps(scores + i);
            const __mmask16 reach = _mm512_cmp_ps_mask(score, bound, _CMP_NLT_UQ);
            _mm512_storeu_ps(&found_[left], _mm512_maskz_compress_ps(reach, score));
            _mm512_storeu_si512(&places_[left], _mm512_maskz_compress_epi32(reach, place));
            left += __builtin_popcount(reach);
            place = _mm512_add_epi32(place, _mm512_set1_epi32(VECTOR));
        }
#elif defined(__AVX2__)
        const __m256 bound = _mm256_set1_ps(threshold);
        const auto below = [&](int64_t from) { return _mm256_cmp_ps(_mm256_loadu_ps(scores + from), bound, _CMP_LT_OQ); };
        const auto reaching = [](__m256 below) { return uint32_t(0xff & ~_mm256_movemask_ps(below)); };
        for (; i + 32 <= count; i += 32) {
            const __m256 a = below(i), b = below(i + 8), c = below(i + 16), d = below(i + 24);
            const __m256 all = _mm256_and_ps(_mm256_and_ps(a, b), _mm256_and_ps(c, d));
            if (_mm256_movemask_ps(all) == 0xff) continue;  // of most: few reach it
            uint32_t reach = reaching(a) | reaching(b) << 8 | reaching(c) << 16 | reaching(d) << 24;
            for (; reach; reach &= reach - 1) {
                const int64_t place = i + __builtin_ctz(reach);
                found_[left] = scores[place];
                places_[left++] = int32_t(place);
            }
        }
#endif
        for (; i < count; ++i) {
            found_[left] = scores[i];
            places_[left] = int32_t(i);
            left += !(scores[i] < threshold);
        }
#pragma omp simd
        for (int64_t j = 0; j < left; ++j) kept_[j] = sortable(found_[j]);
        return left;
    }

    int64_t k_, lanes_;
    std::vector<float> maxima_, found_;
    std::vector<int32_t> keyed_, kept_, places_, rank_, order_;
};

struct Candidate {
    int32_t first, second;  // places in the halves' lists
};

// The best k sums of two sorted lists. A pair (i, j) can be among them only if (i + 1)(j + 1) <= k.
class BestPairs {
  public:
    explicit BestPairs(int64_t k) : best(k + 1), k_(k), corner_(k), first_(k), second_(k) {
        for (int32_t i = 0; i < k; ++i) {
            corner_[i] = (k + i) / (i + 1) - 1;
            for (int32_t j = 0; (i + 1) * (j + 1) <= k; ++j) {
                firsts_.push_back(i);
                seconds_.push_back(j);
            }
        }
        sums_.resize(firsts_.size() + VECTOR);
        places_.resize(firsts_.size() + VECTOR);
        rank_.resize(firsts_.size() + VECTOR);
    }

    void find(const BestOf& first, const BestOf& second) {
        // In double: rounded to float, sums could tie outside the candidates.
        for (int64_t i = 0; i < k_; ++i) {
            first_[i] = score_of(first.keys[i]);
            second_[i] = score_of(second.keys[i]);
        }
        // (i + 1)(j + 1) pairs are no worse than (i, j): where those are k or more, its sum bounds the k-th best
        int64_t bound = INT64_MIN;
        for (int64_t i = 0; i < k_; ++i) bound = std::max(bound, sortable(first_[i] + second_[corner_[i]]));
        int64_t left = collect(bound);
        if (left < k_) left = collect(INT64_MIN);  // infinities of both signs: the bound's sum was none
        // of equal sums the lower row first: the lower index of the first half, then of the second
        rank_all(sums_.data(), left, rank_.data(), order_, [&](int32_t a, int32_t b) {
            const Candidate one = pair(a), other = pair(b);
            const int32_t row = first.indices[one.first], other_row = first.indices[other.first];
            return row != other_row ? row < other_row : second.indices[one.second] < second.indices[other.second];
        });
        for (int64_t i = 0; i < left; ++i) best[std::min<int64_t>(rank_[i], k_)] = pair(i);
    }

    std::vector<Candidate> best;  // k of them, and one that is not among them

  private:
    // Candidates whose sums reach the bound.
    int64_t collect(int64_t bound) {
        const int64_t candidates = int64_t(firsts_.size());
        int64_t left = 0, c = 0;
#ifdef __AVX512F__
        const __m512i reached = _mm512_set1_epi64(bound), magnitude = _mm512_set1_epi64(INT64_MAX);
        __m512i place = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
        for (; c + 8 <= candidates; c += 8) {
            const auto eight = [c](const std::vector<int32_t>& list) { return _mm256_loadu_si256((const __m256i*)&list[c]); };
            const __m512d first = _mm512_i32gather_pd(eight(firsts_), first_.data(), 8);
            const __m512d second = _mm512_i32gather_pd(eight(seconds_), second_.data(), 8);
            const __m512d sum = _mm512_add_pd(_mm512_add_pd(first, second), _mm512_setzero_pd());
            const __m512i bits = _mm512_castpd_si512(sum);
            const __m512i ordered = _mm512_xor_si512(bits, _mm512_and_si512(_mm512_srai_epi64(bits, 63), magnitude));
            const __m512i key = _mm512_mask_mov_epi64(ordered, _mm512_cmp_pd_mask(sum, sum, _CMP_UNORD_Q), magnitude);
            const __mmask8 reach = _mm512_cmpge_epi64_mask(key, reached);
            _mm512_storeu_si512(&sums_[left], _mm512_maskz_compress_epi64(reach, key));
            _mm512_storeu_si512(&places_[left], _mm512_maskz_compress_epi64(reach, place));
            left += __builtin_popcount(reach);
            place = _mm512_add_epi64(place, _mm512_set1_epi64(8));
        }
#elif defined(__AVX2__)
        const __m256i reached = _mm256_set1_epi64x(bound), magnitude = _mm256_set1_epi64x(INT64_MAX);
        for (; c + 4 <= candidates; c += 4) {
            const auto four = [c](const std::vector<int32_t>& list) { return _mm_loadu_si128((const __m128i*)&list[c]); };
            const __m256d first = _mm256_i32gather_pd(first_.data(), four(firsts_), 8);
            const __m256d second = _mm256_i32gather_pd(second_.data(), four(seconds_), 8);
            const __m256d sum = _mm256_add_pd(_mm256_add_pd(first, second), _mm256_setzero_pd());
            const __m256i bits = _mm256_castpd_si256(sum), negative = _mm256_cmpgt_epi64(_mm256_setzero_si256(), bits);
            const __m256i ordered = _mm256_xor_si256(bits, _mm256_and_si256(negative, magnitude));
            const __m256d nan = _mm256_cmp_pd(sum, sum, _CMP_UNORD_Q);
            const __m256i key = _mm256_blendv_epi8(ordered, magnitude, _mm256_castpd_si256(nan));
            int64_t keys[4];
            _mm256_storeu_si256((__m256i*)keys, key);
            const int below = _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpgt_epi64(reached, key)));
            for (int reach = 0xf & ~below; reach; reach &= reach - 1) {
                const int at = __builtin_ctz(reach);
                sums_[left] = keys[at];
                places_[left++] = int32_t(c + at);
            }
        }
#endif
        for (; c < candidates; ++c) {
            sums_[left] = sortable(first_[firsts_[c]] + second_[seconds_[c]]);
            places_[left] = c;
            left += sums_[left] >= bound;
        }
        return left;
    }

    Candidate pair(int64_t survivor) const { return {firsts_[places_[survivor]], seconds_[places_[survivor]]}; }

    int64_t k_;
    std::vector<int64_t> corner_;             // of candidate pairs (i, j) the first that k pairs are no worse than
    std::vector<int32_t> firsts_, seconds_;   // (C,) the candidates
    std::vector<double> first_, second_;      // the halves' scores
    std::vector<int64_t> sums_, places_;
    std::vector<int32_t> rank_, order_;
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
