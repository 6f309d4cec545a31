// The order of a list. Of a short one by counting for each key how many are larger: a square of comparisons,
// but vectors of them, and no branch that a processor would have to guess.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

// rank[i] is how many of keys (m,) are larger than number i; keys and ranks have room for RANKED_TOGETHER - 1 more.
constexpr int64_t RANKED_TOGETHER = 16;

#if defined(__AVX512F__)

inline int32_t count_above(const int32_t* keys, int64_t m, int32_t key) {
    const __m512i bound = _mm512_set1_epi32(key);
    int32_t above = 0;
    for (int64_t i = 0; i < m; i += 16) {
        const __mmask16 valid = m - i < 16 ? (1u << (m - i)) - 1 : 0xffff;
        above += __builtin_popcount(_mm512_mask_cmpgt_epi32_mask(valid, _mm512_maskz_loadu_epi32(valid, keys + i), bound));
    }
    return above;
}

inline int32_t count_above(const int64_t* keys, int64_t m, int64_t key) {
    const __m512i bound = _mm512_set1_epi64(key);
    int32_t above = 0;
    for (int64_t i = 0; i < m; i += 8) {
        const __mmask8 valid = m - i < 8 ? (1u << (m - i)) - 1 : 0xff;
        above += __builtin_popcount(_mm512_mask_cmpgt_epi64_mask(valid, _mm512_maskz_loadu_epi64(valid, keys + i), bound));
    }
    return above;
}

template <typename Key> inline void count_all_above(const Key* keys, int64_t m, int32_t* rank) {
    for (int64_t i = 0; i < m; ++i) rank[i] = count_above(keys, m, keys[i]);
}

#else

// A key is compared with several at once, each of which counts for itself: nothing is summed across.
template <typename Key> inline void count_all_above(const Key* keys, int64_t m, int32_t* rank) {
    typedef Key Keys __attribute__((vector_size(32)));
    constexpr int KEYS = sizeof(Keys) / sizeof(Key), TOGETHER = 2 * KEYS;  // one would wait for itself
    static_assert(TOGETHER <= RANKED_TOGETHER);
    for (int64_t i = 0; i < m; i += TOGETHER) {
        Keys here[2], above[2] = {};
        std::memcpy(here, keys + i, sizeof here);
        for (int64_t other = 0; other < m; ++other) {
            const Keys key = Keys{} + keys[other];
            above[0] -= (Keys)(key > here[0]);
            above[1] -= (Keys)(key > here[1]);
        }
        for (int j = 0; j < TOGETHER; ++j) rank[i + j] = int32_t(above[j / KEYS][j % KEYS]);
    }
}

#endif

// The same. Returns whether no two keys are equal.
template <typename Key> inline bool count_all_above_once(const Key* keys, int64_t m, int32_t* rank) {
    count_all_above(keys, m, rank);
    return std::accumulate(rank, rank + m, int64_t(0)) == m * (m - 1) / 2;
}

constexpr int64_t MOST_COUNTED = 512;  // keys, of which a sort takes as long

// rank[i] is how many of keys (m,) go before number i: the larger, and of equal ones a before b if `before(a, b)`.
// `order` is for its own use; keys and ranks have room for RANKED_TOGETHER - 1 more.
template <typename Key, typename Before>
inline void rank_all(const Key* keys, int64_t m, int32_t* rank, std::vector<int32_t>& order, const Before& before) {
    if (m <= MOST_COUNTED && count_all_above_once(keys, m, rank)) return;
    order.resize(m);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](int32_t a, int32_t b) { return keys[a] != keys[b] ? keys[a] > keys[b] : before(a, b); });
    for (int64_t place = 0; place < m; ++place) rank[order[place]] = int32_t(place);
}
