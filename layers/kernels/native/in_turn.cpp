// Steps of few tokens, one after the other: see layers/kernels/in_turn.py.

// Of the parts of a step those from number `first` to `last`, of elements of this kind.
using Step = void (*)(int element, int first, int last, const void* given, int threads);

// Whole steps; parts (count, 2) are each one's kind of elements and its last part.
extern "C" void membench_in_turn(int count, const Step* steps, const void* const* given, const int* parts, int threads) {
    for (int number = 0; number < count; ++number)
        steps[number](parts[2 * number], 0, parts[2 * number + 1], given[number], threads);
}
