"""Samples in turn with a pacer, on calls whose time is known."""

import pytest

from membench.measuring import paced
from membench.measuring.in_step import Alone
from membench.measuring.paced import gave_core_away, sample_in_turn
from membench.measuring.time import Clock, Sampling


@pytest.fixture
def never_waits(monkeypatch):
    monkeypatch.setattr(paced, "gave_core_away", lambda: 0)


def test_each_sample_has_the_pacers_beside_it(virtual_time):
    order = []

    def call(name, seconds):
        def step(i):
            del i
            order.append(name)
            virtual_time.sleep(seconds)

        return step

    found, own, beside, *_ = sample_in_turn(
        Clock("cpu"), call("step", 0.004), call("pacer", 0.002), Sampling(6, 5, 5, 0.0)
    )
    assert found.seconds == own.seconds == pytest.approx([0.004] * 6)
    assert beside.seconds == pytest.approx([0.002] * 6)
    assert (own.calls, beside.calls) == (1, 1)
    assert found.stopped_by == "samples"
    assert order[-12:] == ["step", "pacer"] * 6


def test_short_calls_of_the_pacer_are_bundled(virtual_time, never_waits):
    step, pacer = (lambda _, s=s: virtual_time.sleep(s) for s in (0.01, 1e-5))
    _, own, beside, *_ = sample_in_turn(Clock("cpu"), step, pacer, Sampling(5, 5, 5, 0.0))
    assert (own.calls, beside.calls) == (1, 50)
    assert beside.seconds == pytest.approx([1e-5] * 5)
    assert beside.on_core_s == pytest.approx([1e-5] * 5)


def test_the_pacers_time_counts_towards_the_limit(virtual_time):
    found, own, beside, *_ = sample_in_turn(
        Clock("cpu"),
        lambda _: virtual_time.sleep(0.01),
        lambda _: virtual_time.sleep(0.01),
        Sampling(1000, 4, 0.19, 0.0),
    )
    assert found.stopped_by == "time"
    assert len(own.seconds) == len(beside.seconds) == 10


def test_time_without_the_core_is_none_on_it(virtual_time, never_waits):
    def preempted(i):
        virtual_time.sleep(0.004)
        if i % 2:
            virtual_time.off_core(0.003)

    found, own, beside, *_ = sample_in_turn(
        Clock("cpu"), preempted, lambda _: virtual_time.sleep(0.002), Sampling(6, 6, 5, 0.0)
    )
    assert max(found.seconds) == pytest.approx(0.007)
    assert own.on_core_s == pytest.approx([0.004] * 6)
    assert beside.on_core_s == pytest.approx([0.002] * 6)


def test_a_call_that_gives_the_core_away_counts_in_full(virtual_time, monkeypatch):
    """A layer that waits, for a file or for another thread, is as slow as it is."""
    waits = [0]
    monkeypatch.setattr(paced, "gave_core_away", lambda: waits[0])

    def waiting(i):
        del i
        waits[0] += 1
        virtual_time.sleep(0.001)
        virtual_time.off_core(0.004)

    _, own, _, *_ = sample_in_turn(Clock("cpu"), waiting, lambda _: virtual_time.sleep(0.002), Sampling(6, 6, 5, 0.0))
    assert own.on_core_s == own.seconds == pytest.approx([0.005] * 6)


def test_where_the_system_does_not_tell_there_is_no_time_on_the_core(virtual_time, monkeypatch):
    monkeypatch.setattr(paced, "_OF_THREAD", None)
    assert gave_core_away() is None
    _, own, beside, *_ = sample_in_turn(
        Clock("cpu"), lambda _: virtual_time.sleep(0.01), lambda _: virtual_time.sleep(0.01), Sampling(4, 4, 5, 0.0)
    )
    assert (own.on_core_s, beside.on_core_s) == ([], [])
    assert len(own.seconds) == 4


def test_cuda_samples_and_the_pacers_stand_in_one_queue():
    """On a clock that queues: the i-th of the pacer is behind the i-th sample, and inputs are still visited in turn."""

    class Queue:
        device, ranks = "cuda", Alone()

        def seconds(self, step, inputs, calls):
            step(next(inputs))
            return 0.01

        def queued_seconds(self, step, inputs, samples, *, cold):
            assert cold
            return [step(next(inputs)) for _ in range(samples)]

    found, _, beside, *_ = sample_in_turn(Queue(), float, lambda i: -1.0 - i, Sampling(4, 4, 1, 0.0))
    first = found.seconds[0]
    assert found.seconds == [first, first + 1, first + 2, first + 3]
    assert beside.seconds == [-1 - each for each in found.seconds]
    assert beside.on_core_s == []
