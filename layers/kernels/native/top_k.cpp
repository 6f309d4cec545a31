// The best k sums of two score lists: see layers/kernels/top_k.py.
//
// A list is read twice, from the cache the second time: for a threshold that at least k of its scores reach
// and few others do, and for what reaches it. What is left, some 40 of 1024 scores at k = 32, is ordered by
// counting, for each, how many are better: a square of comparisons, but vectors of them and no branch.
//
// Letters: H heads, B tokens, n sub-keys a half, k rows a head, m a number of survivors.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "elements.h"

namespace {

constexpr int64_t VECTOR = 16;
constexpr int64_t MOST_LANES = 256;
constexpr int64_t COUNTED_PER_LANE = 4;  // more survivors than so many a lane (ties) are sorted instead

// An integer that is ordered as the score is: -0 as +0, NaN by its bits, so that every list has a total order.
inline int32_t sortable(float score) {
    const int32_t bits = int32_t(bits_of(score + 0.0f));
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

inline float score_of(int32_t key) { return float_of(uint32_t(key ^ ((key >> 31) & 0x7fffffff))); }

// Formed in double: rounded to float, sums could tie outside the candidates.
inline int64_t sortable_sum(int32_t a, int32_t b) {
    const double sum = double(score_of(a)) + double(score_of(b)) + 0.0;
    int64_t bits;
    std::memcpy(&bits, &sum, sizeof bits);
    return bits ^ ((bits >> 63) & INT64_MAX);
}

// rank[i] is how many of keys (m,) go before number i: the larger, and of equal ones those of lower order.
template <typename Key, typename Order>
inline void rank_all(const Key* keys, const Order* order, int64_t m, Key* rank) {
    std::fill(rank, rank + m, Key(0));
    for (int64_t j = 0; j < m; ++j) {
        const Key key = keys[j];
        const Order place = order[j];
#pragma omp simd
        for (int64_t i = 0; i < m; ++i) rank[i] += Key((key > keys[i]) | ((key == keys[i]) & (place < order[i])));
    }
}

// The best k of a list, best first: keys and indices.
class BestOf {
  public:
    BestOf(int64_t k, int64_t count)
        : keys(k), indices(k), k_(k), lanes_((2 * k + VECTOR - 1) / VECTOR * VECTOR),
          counted_(std::max(COUNTED_PER_LANE * lanes_, MOST_LANES)), all_(count), kept_(count + VECTOR),
          places_(count + VECTOR), maxima_(lanes_), rank_(std::max(counted_, lanes_)) {}

    void find(const float* scores, int64_t count) {
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) all_[i] = sortable(scores[i]);
        const int64_t left = collect(threshold(count), count);
        if (left <= counted_) {
            rank_all(kept_.data(), places_.data(), left, rank_.data());
            for (int64_t i = 0; i < left; ++i) put(rank_[i], i);
            return;
        }
        order_.resize(left);
        std::iota(order_.begin(), order_.end(), 0);
        const auto better = [this](int64_t a, int64_t b) { return kept_[a] != kept_[b] ? kept_[a] > kept_[b] : a < b; };
        std::partial_sort(order_.begin(), order_.begin() + k_, order_.end(), better);
        for (int64_t rank = 0; rank < k_; ++rank) put(rank, order_[rank]);
    }

    std::vector<int32_t> keys, indices;

  private:
    // A key that at least k of the list reach: the k-th largest of the maxima of 2k or more interleaved parts.
    int32_t threshold(int64_t count) {
        if (count < 2 * lanes_ || lanes_ > MOST_LANES) return INT32_MIN;
        std::fill(maxima_.begin(), maxima_.end(), INT32_MIN);
        for (int64_t from = 0; from + lanes_ <= count; from += lanes_) {
#pragma omp simd
            for (int64_t lane = 0; lane < lanes_; ++lane) maxima_[lane] = std::max(maxima_[lane], all_[from + lane]);
        }
        std::fill(rank_.begin(), rank_.begin() + lanes_, 0);
        for (int64_t j = 0; j < lanes_; ++j) {
            const int32_t key = maxima_[j];
#pragma omp simd
            for (int64_t i = 0; i < lanes_; ++i) rank_[i] += key > maxima_[i];
        }
        int32_t least = INT32_MAX;
#pragma omp simd reduction(min : least)
        for (int64_t i = 0; i < lanes_; ++i) least = std::min(least, rank_[i] < k_ ? maxima_[i] : INT32_MAX);
        return least;
    }

    // Keys that reach the threshold, in the order of the list.
    int64_t collect(int32_t threshold, int64_t count) {
        int64_t left = 0, i = 0;
#ifdef __AVX512F__
        const __m512i bound = _mm512_set1_epi32(threshold);
        __m512i place = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (; i + VECTOR <= count; i += VECTOR) {
            const __m512i key = _mm512_loadu_si512(&all_[i]);
            const __mmask16 reach = _mm512_cmpge_epi32_mask(key, bound);
            _mm512_storeu_si512(&kept_[left], _mm512_maskz_compress_epi32(reach, key));
            _mm512_storeu_si512(&places_[left], _mm512_maskz_compress_epi32(reach, place));
            left += __builtin_popcount(reach);
            place = _mm512_add_epi32(place, _mm512_set1_epi32(VECTOR));
        }
#endif
        for (; i < count; ++i) {
            kept_[left] = all_[i];
            places_[left] = int32_t(i);
            left += all_[i] >= threshold;
        }
        return left;
    }

    void put(int64_t rank, int64_t survivor) {
        if (rank >= k_) return;
        keys[rank] = kept_[survivor];
        indices[rank] = places_[survivor];
    }

    int64_t k_, lanes_, counted_;
    std::vector<int32_t> all_, kept_, places_, maxima_, rank_;
    std::vector<int64_t> order_;
};

struct Candidate {
    int32_t first, second;  // places in the halves' lists
};

// The best k sums of two sorted lists. A pair (i, j) can be among them only if (i + 1)(j + 1) <= k.
class BestPairs {
  public:
    BestPairs(int64_t k) : best(k), k_(k), most_(k), corner_(k) {
        int64_t candidates = 0;
        for (int64_t i = 0; i < k; ++i) {
            candidates += most_[i] = k / (i + 1);
            corner_[i] = (k + i) / (i + 1) - 1;
        }
        sums_.resize(candidates);
        rows_.resize(candidates);
        rank_.resize(candidates);
        pairs_.resize(candidates);
    }

    void find(const BestOf& first, const BestOf& second, int64_t count) {
        // (i + 1)(j + 1) pairs are no worse than (i, j): where those are k or more, its sum bounds the k-th best
        int64_t bound = INT64_MIN;
        for (int64_t i = 0; i < k_; ++i) bound = std::max(bound, sortable_sum(first.keys[i], second.keys[corner_[i]]));
        int64_t left = 0;
        for (int64_t i = 0; i < k_; ++i) {
            for (int64_t j = 0; j < most_[i]; ++j) {
                const int64_t sum = sortable_sum(first.keys[i], second.keys[j]);
                if (sum < bound) break;
                sums_[left] = sum;
                rows_[left] = first.indices[i] * count + second.indices[j];
                pairs_[left++] = {int32_t(i), int32_t(j)};
            }
        }
        rank_all(sums_.data(), rows_.data(), left, rank_.data());
        for (int64_t i = 0; i < left; ++i)
            if (rank_[i] < k_) best[rank_[i]] = pairs_[i];
    }

    std::vector<Candidate> best;

  private:
    int64_t k_;
    std::vector<int64_t> most_, corner_;  // of candidate pairs (i, j) how many, and the first that k pairs are no worse than
    std::vector<int64_t> sums_, rows_, rank_;
    std::vector<Candidate> pairs_;
};

}  // namespace

extern "C" {

// halves (2, B, H, k) int32 and weights (B, H, k) of scores (H, 2, B, n).
void membench_product_key_top_k(const float* scores, int64_t heads, int64_t tokens, int64_t count, int64_t k,
                                int32_t* halves, float* weights, int threads) {
    threads = useful_threads(threads, heads * tokens * (2 * count + 64 * k));
#pragma omp parallel num_threads(threads)
    {
        BestOf first(k, count), second(k, count);
        BestPairs pairs(k);
        std::vector<float> sums(k);
#pragma omp for schedule(dynamic, 16)
        for (int64_t task = 0; task < heads * tokens; ++task) {
            const int64_t head = task / tokens, token = task % tokens;
            first.find(scores + ((head * 2) * tokens + token) * count, count);
            second.find(scores + ((head * 2 + 1) * tokens + token) * count, count);
            pairs.find(first, second, count);
            const int64_t out = (token * heads + head) * k;
            int32_t* second_half = halves + tokens * heads * k;
            float total = 0;
            for (int64_t i = 0; i < k; ++i) {
                const Candidate pair = pairs.best[i];
                halves[out + i] = first.indices[pair.first];
                second_half[out + i] = second.indices[pair.second];
                sums[i] = score_of(first.keys[pair.first]) + score_of(second.keys[pair.second]);
                total += weights[out + i] = std::exp(sums[i] - sums[0]);
            }
            for (int64_t i = 0; i < k; ++i) weights[out + i] /= total;
        }
    }
}

}  // extern "C"
