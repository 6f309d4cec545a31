// A mixture of experts for few tokens: see layers/kernels/moe_step.py.
//
// Letters: B tokens, d model dim, E experts, K experts a token, R = B·K rows, f hidden width of an expert.

#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

#include "activating.h"
#include "choosing.h"
#include "tokens.h"

namespace {

enum Part { router = 0, dispatch = 1, experts = 2, combine = 3, shared_up = 4, shared_down = 5 };

constexpr int64_t COLUMNS_A_TASK = 256;  // of a sum over experts

struct Given {
    Tokens tokens;
    int64_t experts, top_k, hidden, shared_hidden, sigmoid, renormalize;
    const void* router;  // (E, d)
    const float* bias;   // (E,), or null
    const void *gate_up, *down, *shared_gate_up, *shared_down;
    const int64_t* given_experts;  // (B, K), or null
    float* logits;                 // (B, E); this and what follows is written
    int64_t* chosen;               // (B, K)
    float* weights;                // (B, K)
    int64_t* slots;                // (R,), by expert
    void* of_rows;                 // (R, f), in the order of the slots
    float* results;                // (R, d), in the order of the slots
    void* of_tokens;               // (B, shared hidden)

    int64_t rows() const { return tokens.count * top_k; }
    const int64_t* used() const { return given_experts ? given_experts : chosen; }
    int64_t multiplications() const {
        return tokens.count * tokens.model_dim * (experts + 3 * (top_k * hidden + shared_hidden));
    }
};

// Softmax or sigmoid of a token's logits, in place.
inline void score(const Given& given, float* logits) {
    const int64_t count = given.experts;
    if (given.sigmoid) {
        for (int64_t e = 0; e < count; ++e) logits[e] = sigmoid(logits[e]);
        return;
    }
    float most = logits[0], sum = 0;
    for (int64_t e = 1; e < count; ++e) most = logits[e] > most ? logits[e] : most;
    for (int64_t e = 0; e < count; ++e) sum += logits[e] = exp_of(logits[e] - most);
    for (int64_t e = 0; e < count; ++e) logits[e] /= sum;
}

// The best K by score and bias, of equal ones the lower first; weights are scores.
inline void choose_experts(const Given& given, const float* scores, int64_t* chosen, float* weights) {
    std::vector<std::pair<int32_t, int32_t>> order(given.experts);
    for (int64_t e = 0; e < given.experts; ++e)
        order[e] = {sortable(scores[e] + (given.bias ? given.bias[e] : 0.0f)), -int32_t(e)};
    std::partial_sort(order.begin(), order.begin() + given.top_k, order.end(), std::greater<>());
    float sum = 0;
    for (int64_t i = 0; i < given.top_k; ++i) {
        chosen[i] = -order[i].second;
        sum += weights[i] = scores[chosen[i]];
    }
    for (int64_t i = 0; given.renormalize && i < given.top_k; ++i) weights[i] /= sum;
}

// Rows of one expert, from number `first` of the slots on.
struct Group {
    int64_t expert, first, rows;
};

inline std::vector<Group> groups_of(const Given& given) {
    std::vector<Group> groups;
    for (int64_t row = 0; row < given.rows(); ++row) {
        const int64_t expert = given.used()[given.slots[row]];
        if (groups.empty() || groups.back().expert != expert) groups.push_back({expert, row, 0});
        ++groups.back().rows;
    }
    return groups;
}

// Calls task(group, begin, end) for all stretches of each group; lengths(group) is its length, and the most of a stretch.
template <typename Lengths, typename Task>
void for_stretches(const std::vector<Group>& groups, const Lengths& lengths, const Task& task) {
    struct Stretch {
        int64_t group, begin, end;
    };
    std::vector<Stretch> stretches;
    for (size_t group = 0; group < groups.size(); ++group) {
        const auto [length, most] = lengths(groups[group]);
        for (int64_t begin = 0; begin < length; begin += most)
            stretches.push_back({int64_t(group), begin, std::min(begin + most, length)});
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t at = 0; at < int64_t(stretches.size()); ++at)
        task(groups[stretches[at].group], stretches[at].begin, stretches[at].end);
}

template <typename Element> void run_experts(const Given& given, const Element* x) {
    const int64_t d = given.tokens.model_dim, f = given.hidden;
    const Element* gate_up = static_cast<const Element*>(given.gate_up);
    const Element* down = static_cast<const Element*>(given.down);
    Element* hidden = static_cast<Element*>(given.of_rows);
    const std::vector<Group> groups = groups_of(given);
    std::vector<Element> of_group;
    std::vector<float> sums;
    using Lengths = std::pair<int64_t, int64_t>;
    const auto up = [&](const Group& group) { return Activation{group.rows, f, d}; };
    for_stretches(
        groups, [&](const Group& group) { return Lengths{f, up(group).template neurons_a_task<Element>()}; },
        [&](const Group& group, int64_t begin, int64_t end) {
            of_group.resize(group.rows * d);
            for (int64_t row = 0; row < group.rows; ++row)
                std::copy_n(x + given.slots[group.first + row] / given.top_k * d, d, of_group.data() + row * d);
            sums.resize(2 * group.rows * (end - begin));
            activate_task(up(group), of_group.data(), gate_up + group.expert * 2 * f * d, begin, end, sums.data(),
                          end - begin, hidden + group.first * f);
        });
    const auto back = [&](const Group& group) { return Product{group.rows, d, f}; };
    for_stretches(
        groups, [&](const Group& group) { return Lengths{d, back(group).template rows_a_task<Element>()}; },
        [&](const Group& group, int64_t begin, int64_t end) {
            dot_task(back(group), hidden + group.first * f, down + group.expert * d * f, begin, end,
                     given.results + group.first * d + begin, d);
        });
}

// y: what the experts gave each token, by their weights, best first.
template <typename Element> void sum_experts(const Given& given) {
    const int64_t d = given.tokens.model_dim, rows = given.rows();
    std::vector<int64_t> row_of(rows);
    for (int64_t row = 0; row < rows; ++row) row_of[given.slots[row]] = row;
    std::vector<float> sum(COLUMNS_A_TASK);
#pragma omp for collapse(2) schedule(static)
    for (int64_t token = 0; token < given.tokens.count; ++token)
        for (int64_t begin = 0; begin < d; begin += COLUMNS_A_TASK) {
            const int64_t columns = std::min(COLUMNS_A_TASK, d - begin);
            std::fill(sum.begin(), sum.end(), 0.0f);
            for (int64_t slot = token * given.top_k; slot < (token + 1) * given.top_k; ++slot)
                add_scaled(sum.data(), given.weights[slot], given.results + row_of[slot] * d + begin, columns);
            given.tokens.finish<Element>(sum.data(), token, begin, columns);
        }
}

// By all threads of a region, which have waited for each other when it is done.
template <typename Element> void compute(const Given& given, int part) {
    const int64_t tokens = given.tokens.count, d = given.tokens.model_dim, experts_ = given.experts;
    Element* y = static_cast<Element*>(given.tokens.y);
    Element* of_tokens = static_cast<Element*>(given.of_tokens);
    const Activation shared{tokens, given.shared_hidden, d};
    switch (part) {
        case router:
            given.tokens.normed<Element>([&](const Element* x) {
                multiply<Element, float>({tokens, experts_, d}, x, static_cast<const Element*>(given.router), nullptr,
                                         given.logits);
            });
#pragma omp for schedule(static)
            for (int64_t token = 0; token < tokens; ++token) {
                score(given, given.logits + token * experts_);
                choose_experts(given, given.logits + token * experts_, given.chosen + token * given.top_k,
                               given.weights + token * given.top_k);
            }
            break;
        case dispatch:
#pragma omp single
            {
                std::iota(given.slots, given.slots + given.rows(), 0);
                std::stable_sort(given.slots, given.slots + given.rows(),
                                 [&](int64_t a, int64_t b) { return given.used()[a] < given.used()[b]; });
            }
            break;
        case experts: given.tokens.normed<Element>([&](const Element* x) { run_experts(given, x); }); break;
        case combine: sum_experts<Element>(given); break;
        case shared_up:
            given.tokens.normed<Element>([&](const Element* x) {
                activate(shared, x, static_cast<const Element*>(given.shared_gate_up), of_tokens);
            });
            break;
        case shared_down:
            multiply({tokens, d, given.shared_hidden}, of_tokens, static_cast<const Element*>(given.shared_down), y, y);
            break;
    }
}

template <typename Element> void moe_step(const Given& given, int first, int last, int threads) {
    threads = useful_threads(threads, given.multiplications());
#pragma omp parallel num_threads(threads)
    for (int part = first; part <= last; ++part) compute<Element>(given, part);
}

}  // namespace

// Of the parts those from number `first` to `last`. Python packs what is given.
extern "C" void membench_moe_step(int element, int first, int last, const void* given, int threads) {
    FOR_ELEMENT(element, moe_step, *static_cast<const Given*>(given), first, last, threads)
}
