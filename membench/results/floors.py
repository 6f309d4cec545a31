"""Stage times held against what is counted and what the device can do. Pure arithmetic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from membench.layers.spec import StageCost
from membench.results.profile import REST, Limit, StageKey, StageRow

_WHOLE_LAYER = "layer"  # the one stage of a layer from outside: it answers for whatever its cost() names


@dataclass(frozen=True, slots=True)
class Counts:
    """What one timed stage is counted to need, summed over the stages of the cost that it covers."""

    flops: float
    bytes_min: float
    bytes_dram_expected: float
    row_bytes_dram_expected: float


@dataclass(frozen=True, slots=True)
class Rates:
    """The measured ceilings that make a floor; None is unknown."""

    flops_per_s: float | None
    stream_bytes_per_s: float | None
    row_bytes_per_s: float | None


def rates_of(ceilings: Mapping[str, float | None]) -> Rates:
    """The rates of a process's ceilings; the stream ceiling is the faster of copy and read."""
    streams = [rate for name in ("copy_bytes_per_s", "read_bytes_per_s") if (rate := ceilings.get(name))]
    return Rates(
        flops_per_s=ceilings.get("matmul_flops_per_s"),
        stream_bytes_per_s=max(streams, default=None),
        row_bytes_per_s=ceilings.get("random_row_bytes_per_s"),
    )


def stage_rows(
    times_s: Mapping[StageKey, float], costs: Sequence[StageCost], ceilings: Mapping[str, float | None]
) -> list[StageRow]:
    """A row a stage, in the order in which they ran, the rest last.

    Args:
        times_s: seconds of a step by stage, as observed.
        costs: the stages of the layer's cost in this mode.
        ceilings: as ``Ceilings.as_json`` gives them.
    """
    whole_s, rates = sum(times_s.values()), rates_of(ceilings)
    keys = [*(key for key in times_s if key != REST), *(key for key in times_s if key == REST)]
    rows = []
    for key in keys:
        counts = counts_of(key, list(times_s), costs)
        time_ms, share = 1e3 * times_s[key], times_s[key] / whole_s if whole_s else 0.0
        if counts is None:
            rows.append(StageRow(name=key.name, backward=key.backward, time_ms=time_ms, share=share, excess_ms=time_ms))
            continue
        floor_s, limit = floor_of(counts, rates)
        floor_ms = None if floor_s is None else 1e3 * floor_s
        rows.append(
            StageRow(
                name=key.name,
                backward=key.backward,
                time_ms=time_ms,
                share=share,
                flops=counts.flops,
                bytes_min=counts.bytes_min,
                bytes_dram_expected=counts.bytes_dram_expected,
                row_bytes_dram_expected=counts.row_bytes_dram_expected,
                floor_ms=floor_ms,
                excess_ms=None if floor_ms is None else time_ms - floor_ms,
                limit=limit,
            )
        )
    return rows


def counts_of(key: StageKey, timed: Sequence[StageKey], costs: Sequence[StageCost]) -> Counts | None:
    """The counts of one timed stage, or None where nothing is counted for it.

    A stage covers the costs of its own name, and those that begin with it (``experts`` covers
    ``experts_up`` and ``experts_down``, which one fused stage computes) unless they were timed
    themselves.
    """
    if key == REST:
        return None
    names = {each.name for each in timed}

    def covers(cost: StageCost) -> bool:
        if cost.backward != key.backward:
            return False
        part = cost.name.startswith(f"{key.name}_") or key.name == _WHOLE_LAYER
        return cost.name == key.name or (part and cost.name not in names)

    covered = [cost for cost in costs if covers(cost)]
    if not covered:
        return None
    return Counts(
        flops=sum(cost.flops for cost in covered),
        bytes_min=sum(cost.bytes_min for cost in covered),
        bytes_dram_expected=sum(cost.bytes_dram_expected for cost in covered),
        row_bytes_dram_expected=sum(cost.row_bytes_dram_expected for cost in covered),
    )


def floor_of(counts: Counts, rates: Rates) -> tuple[float | None, Limit | None]:
    """The least seconds at the measured ceilings, and which limit makes them.

    The longer of FLOPs at the matmul ceiling and expected DRAM bytes, streams at one ceiling and
    table rows at the other. None where a ceiling that is needed is unknown.
    """
    rows = counts.row_bytes_dram_expected
    streams = counts.bytes_dram_expected - rows
    if (counts.flops and not rates.flops_per_s) or (streams and not rates.stream_bytes_per_s):
        return None, None
    if rows and not rates.row_bytes_per_s:
        return None, None
    compute_s = counts.flops / rates.flops_per_s if rates.flops_per_s else 0.0
    memory_s = streams / rates.stream_bytes_per_s if rates.stream_bytes_per_s else 0.0
    memory_s += rows / rates.row_bytes_per_s if rates.row_bytes_per_s else 0.0
    return max(compute_s, memory_s), "compute" if compute_s > memory_s else "memory"
