"""What the gate looks at: metrics with a value in every round, and metrics that a rerun must reproduce.

Timings, rates and joules vary from process to process and are judged by statistics over rounds.
Counts and byte sizes do not vary, so a single file on any machine is enough to judge them.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from membench.json_values import number, positive
from membench.results.columns import Better
from membench.results.metrics import quantile
from membench.results.records import Record, Round

_SHORTEST_S, _LONGEST_S = 1e-12, 1e9
_TAIL_SAMPLES = 10  # below this a round's p90 is its slowest sample


@dataclass(frozen=True, slots=True)
class TimedMetric:
    """Lower is better. ``margin`` is the least slowdown that matters; None: judged only where gate.yaml sets one.

    ``floor`` is the least difference that matters, in the metric's unit.
    """

    name: str
    margin: float | None
    floor: float
    in_round: Callable[[Round, int], float | None]


@dataclass(frozen=True, slots=True)
class CountedMetric:
    """Lower is better; ``tolerance`` is the share by which it may grow.

    ``on_any_device``: a matter of arithmetic, the same on all machines; caches, allocators and
    rounding are not. ``of_one_build``: comparable only where the same software ran.
    """

    name: str
    tolerance: float
    of_record: Callable[[Record], float | None]
    on_any_device: bool = False
    of_one_build: bool = False


@dataclass(frozen=True, slots=True)
class LearntMetric:
    """What a trained case has learnt, a value a seed. ``floor`` is the least difference that matters, in its unit."""

    name: str
    better: Better
    floor: float


def _latency_ms(round_: Round, tokens: int) -> float | None:
    return _positive_ms(round_.samples_s, 0.5)


def _tail_ms(round_: Round, tokens: int) -> float | None:
    return _positive_ms(round_.samples_s, 0.9) if len(round_.samples_s) >= _TAIL_SAMPLES else None


def _hot_ms(round_: Round, tokens: int) -> float | None:
    return _positive_ms(round_.hot_samples_s or [], 0.5)


def _positive_ms(samples_s: list[float], q: float) -> float | None:
    return 1e3 * quantile(samples_s, q) if are_times(samples_s) else None


def are_times(samples_s: list[float]) -> bool:
    """Whether these can be seconds of a call: there are some, and none is beyond any clock."""
    return bool(samples_s) and min(samples_s) >= _SHORTEST_S and max(samples_s) <= _LONGEST_S


def _joules_per_token(round_: Round, tokens: int) -> float | None:
    joules = positive(round_.energy, "joules_per_call")
    return joules / tokens if joules and _SHORTEST_S <= joules <= _LONGEST_S else None


def _planned(name: str) -> Callable[[Record], float | None]:
    """What was counted when it ran; else, exact too, what the plan says."""

    def value(record: Record) -> float | None:
        counted = [number(r.cost, name) for r in record.rounds if r.status == "ok" and r.cost]
        return counted[-1] if counted else number(record.planned, name)

    return value


def _worst_over_rounds(name: str) -> Callable[[Record], float | None]:
    def value(record: Record) -> float | None:
        known = [v for r in record.rounds if r.status == "ok" and (v := number(r.memory, name)) is not None]
        return max(known, default=None)

    return value


def _instructions(record: Record) -> float | None:
    """Of one thread: several that wait for each other execute as many as the wait is long."""
    known = [positive(r.counters, "instructions_per_call") for r in record.rounds if r.status == "ok"]
    counted = [v for v in known if v is not None]
    return statistics.median(counted) if counted and _threads(record) == {1} else None


def _threads(record: Record) -> set[int | None]:
    return {r.threads for r in record.rounds if r.status == "ok"}


def _reference_error(record: Record) -> float | None:
    return number(record.metrics, "reference_error")


def _dropped_tokens(record: Record) -> float | None:
    known = [v for r in record.rounds if (v := number(r.traffic, "dropped_tokens")) is not None]
    return statistics.median(known) if known else None


TIMED = (
    TimedMetric("latency_ms_p50", 0.03, 1e-3, _latency_ms),
    TimedMetric("latency_ms_hot_p50", 0.03, 1e-3, _hot_ms),
    TimedMetric("latency_ms_p90", None, 1e-3, _tail_ms),
    TimedMetric("energy_j_per_token", 0.05, 0.0, _joules_per_token),
)
COUNTED = (
    *(CountedMetric(name, 0.0, _planned(name), on_any_device=True) for name in ("params", "stored_bytes", "flops")),
    CountedMetric("bytes_min", 0.01, _planned("bytes_min"), on_any_device=True),
    *(CountedMetric(name, 0.01, _planned(name)) for name in ("flops_executed", "bytes_issued", "bytes_dram_expected")),
    *(
        CountedMetric(name, 0.01, _worst_over_rounds(name))
        for name in (
            "weights_bytes",
            "gradient_bytes",
            "optimizer_bytes",
            "saved_activation_bytes",
            "peak_allocated_bytes",
        )
    ),
    # Rounding changes with the order of a sum; an error that grows by more than half is another computation.
    CountedMetric("reference_error", 0.5, _reference_error),
    CountedMetric("dropped_tokens", 0.0, _dropped_tokens),
    # The interpreter and the allocator do not do exactly the same in every process.
    CountedMetric("instructions_per_call", 0.02, _instructions, of_one_build=True),
)
LEARNT = (LearntMetric("answer_nll", "lower", 0.01), LearntMetric("em", "higher", 0.005))
METRIC_NAMES = tuple(metric.name for metric in (*TIMED, *COUNTED, *LEARNT))
