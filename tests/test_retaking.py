"""Disturbed samples: kept apart, taken again within a budget, and what a record says of them."""

import pytest

from membench.machine.disturbance import LIMIT, SPAN_S, Seen
from membench.measuring.in_step import Alone
from membench.measuring.retaking import Retaking
from membench.measuring.time import Clock, Sampling, sample

SECONDS = 0.1  # of a step that nobody disturbs


class FakeWatch:
    """Others use ``share`` of the processors at the times in ``busy``, which slows a step to ``SLOW`` times as long."""

    SLOW = 3
    signals = ("waiting", "other_processes")

    def __init__(self, time, busy, share=0.5):
        self.time, self.busy, self.share = time, busy, share
        self.marks, self.begun_s = 0, None

    def is_busy(self, at_s):
        return any(begin <= at_s < end for begin, end in self.busy)

    def step(self, seconds):
        def call(_):
            self.time.sleep(seconds * (self.SLOW if self.is_busy(self.time.perf_counter()) else 1))

        return call

    def begin(self):
        self.mark()

    def mark(self):
        self.marks += 1
        self.begun_s = self.time.perf_counter()

    def seen(self):
        disturbed = self.is_busy(self.begun_s)
        self.mark()
        return Seen({"waiting": self.share if disturbed else 0.0, "other_processes": None}, 4 if disturbed else 0)


def sampled(virtual_time, busy, *, seconds=SECONDS, retake_seconds=5.0, share=0.5, samples=10, floor=3, max_seconds=60):
    watch = FakeWatch(virtual_time, busy, share)
    sampling = Sampling(samples, floor, max_seconds, 0.0, retake_seconds)
    return sample(Clock("cpu"), watch.step(seconds), sampling, watch=watch)


def test_nobody_disturbs(virtual_time):
    found = sampled(virtual_time, [])
    assert found.seconds == pytest.approx([SECONDS] * 10)
    assert found.disturbed == []
    known = found.disturbance
    assert known["shares"] == {"waiting": {"largest": 0.0, "mean": 0.0}, "other_processes": None}
    assert (known["limit"], known["involuntary_switches_per_sample"]) == (LIMIT, 0.0)
    assert (known["disturbed_samples"], known["retaken_samples"], known["retake_seconds"]) == (0, 0, 0.0)
    assert (known["kept_samples"], known["kept_share"], known["kept_by"]) == (0, None, [])


def test_a_share_at_the_limit_is_left_alone(virtual_time):
    assert sampled(virtual_time, [(0, 1e9)], share=LIMIT).disturbed == []
    assert len(sampled(virtual_time, [(0, 1e9)], share=LIMIT + 1e-6, retake_seconds=0.0).disturbed) == 10 - 3


def test_what_is_disturbed_for_a_while_is_taken_again(virtual_time):
    found = sampled(virtual_time, [(0.7, 1.4)])  # while it is sampled: it is warm after 0.5 s
    assert found.seconds == pytest.approx([SECONDS] * 10)
    assert found.stopped_by == "samples"
    assert found.disturbed and found.disturbed == pytest.approx([3 * SECONDS] * len(found.disturbed))
    known = found.disturbance
    assert known["disturbed_samples"] == known["retaken_samples"] == len(found.disturbed)
    assert known["kept_samples"] == 0
    taken = 10 + len(found.disturbed)
    assert known["shares"]["waiting"] == {"largest": 0.5, "mean": pytest.approx(0.5 * len(found.disturbed) / taken)}
    assert known["involuntary_switches_per_sample"] == pytest.approx(4 * len(found.disturbed) / taken)
    assert 0.5 <= known["retake_seconds"] <= 5.0


def test_half_a_second_goes_by_before_the_next_window(virtual_time):
    """What comes in ticks is looked at over so long: else the next window would be held to be disturbed too."""
    watch = FakeWatch(virtual_time, [(0, 0.45)])
    windows = []
    seen = watch.seen
    watch.seen = lambda: windows.append((watch.begun_s, virtual_time.perf_counter())) or seen()
    sample(Clock("cpu"), watch.step(0.01), Sampling(4, 2, 60, 0.0, 5.0), watch=watch)
    before = next(i for i, (begin, _) in enumerate(windows) if not watch.is_busy(begin))
    assert before > 0
    assert windows[before][0] - windows[before - 1][0] == pytest.approx(0.5, abs=0.05)


def test_short_samples_share_a_window(virtual_time):
    watch = FakeWatch(virtual_time, [])
    found = sample(Clock("cpu"), watch.step(0.001), Sampling(100, 5, 60, 0.0), watch=watch)
    assert len(found.seconds) == 100
    assert 5 <= watch.marks <= 9  # and not one a sample


def test_what_stays_disturbed_only_fills_up_to_the_floor(virtual_time):
    found = sampled(virtual_time, [(0, 1e9)], retake_seconds=1.5)
    assert found.seconds == pytest.approx([3 * SECONDS] * 3)
    known = found.disturbance
    assert (known["kept_samples"], known["kept_share"], known["kept_by"]) == (3, 0.5, ["waiting"])
    assert known["disturbed_samples"] == len(found.disturbed) + 3 == known["retaken_samples"] + 10
    assert known["retake_seconds"] == pytest.approx(1.5, abs=3 * SECONDS)


def test_without_a_budget_nothing_is_taken_again(virtual_time):
    found = sampled(virtual_time, [(0, 1e9)], retake_seconds=0.0)
    assert (found.disturbance["retaken_samples"], found.disturbance["retake_seconds"]) == (0, 0.0)
    assert (len(found.seconds), len(found.disturbed)) == (3, 7)
    assert found.stopped_by == "disturbance"


def test_the_clean_ones_do_where_they_reach_the_floor(virtual_time):
    found = sampled(virtual_time, [(0.9, 1e9)], retake_seconds=0.0)
    assert found.seconds == pytest.approx([SECONDS] * len(found.seconds))
    assert 3 <= len(found.seconds) < 10
    assert found.disturbance["kept_samples"] == 0


def test_time_ends_it_besides_the_budget(virtual_time):
    begin = virtual_time.perf_counter()
    found = sampled(virtual_time, [(0, 1e9)], retake_seconds=2.0, samples=1000, max_seconds=3.0)
    assert found.stopped_by == "disturbance"
    assert virtual_time.perf_counter() - begin <= 2.0 + 3.0 + 6 * 3 * SECONDS  # the warm-up, and a sample


def test_the_least_disturbed_are_used_whatever_their_time(virtual_time):
    watch = FakeWatch(virtual_time, [(0, 1e9)])
    shares = iter([0.9, 0.3, 0.6, 0.2, 0.8])
    watch.seen = lambda: (watch.mark(), Seen({"waiting": next(shares), "other_processes": None}, None))[1]
    times = iter([0.09] * 4 + [0.9, 0.3, 0.6, 0.2, 0.8])
    found = sample(Clock("cpu"), lambda _: virtual_time.sleep(next(times)), Sampling(5, 2, 60, 0.0), watch=watch)
    assert found.seconds == pytest.approx([0.3, 0.2])
    assert sorted(found.disturbed) == pytest.approx([0.6, 0.8, 0.9])
    assert found.disturbance["kept_share"] == pytest.approx(0.25)
    assert found.disturbance["involuntary_switches_per_sample"] is None


class QueuedClock:
    """CUDA's clock: a batch of samples a time."""

    device, ranks = "cuda", Alone()

    def __init__(self, time, step_s):
        self.time, self.step_s, self.batches = time, step_s, []

    def seconds(self, step, inputs, calls):
        self.time.sleep(self.step_s)
        return self.step_s

    def queued_seconds(self, step, inputs, samples, *, cold):
        self.batches.append(samples)
        self.time.sleep(samples * self.step_s)
        return [self.step_s] * samples


@pytest.mark.parametrize(("until_s", "batches"), [(0.0, 1), (1.3, 3), (1e9, 4)])
def test_a_batch_on_cuda_is_judged_whole(virtual_time, until_s, batches):
    clock, watch = QueuedClock(virtual_time, 0.1), FakeWatch(virtual_time, [(0, until_s)])
    found = sample(clock, lambda _: None, Sampling(6, 3, 60, 0.0, 1.7), watch=watch)
    assert clock.batches == [6] * batches
    stays = until_s > 100
    assert len(found.seconds) == (3 if stays else 6)
    assert len(found.disturbed) == 6 * batches - len(found.seconds)
    assert found.disturbance["kept_samples"] == (3 if stays else 0)


def test_a_whole_span_passes_before_a_disturbed_sample_is_taken_again(virtual_time):
    """After less, the half second that ticks are looked at over could begin before the disturbance."""
    watch = FakeWatch(virtual_time, [(0, 1e9)])
    taking = Retaking(Sampling(10, 3, 60, 0.0, 5.0), watch)
    watch.begin()
    virtual_time.sleep(0.3)
    assert taking.add([0.3], 0.3) == SPAN_S


def test_samples_that_count_are_in_order_and_say_which_follow(virtual_time):
    """One in the middle is kept apart; after the pass the next does not follow directly."""
    watch = FakeWatch(virtual_time, [])
    taking = Retaking(Sampling(4, 2, 60, 0.0, 0.0), watch)
    shares = iter([0.0, 0.9, 0.0, 0.0])
    watch.seen = lambda: Seen({"waiting": next(shares), "other_processes": None}, None)
    for first in (1, 3, 4, 5):
        taking.add([first, first + 0.5] if first == 1 else [first], 0.1)
    found = taking.taken()
    assert (found.kept, found.apart) == ([1, 1.5, 4, 5], [3])
    assert found.follows == [False, True, False, True]
