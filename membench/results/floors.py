"""Stage times held against what is counted and what the device can do. Pure arithmetic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from membench.layers.spec import StageCost
from membench.results.ceilings import Ceilings
from membench.results.profile import REST, StageKey, StageRow

_WHOLE_LAYER = "layer"  # the one stage of a layer from outside: it answers for whatever its cost() names


@dataclass(frozen=True, slots=True)
class Counts:
    """What one timed stage is counted to need, summed over the stages of the cost that it covers."""

    flops: float
    bytes_min: float
    bytes_dram_expected: float
    row_bytes_dram_expected: float


def stage_rows(
    times_s: Mapping[StageKey, float], costs: Sequence[StageCost], ceilings: Mapping[str, float | None]
) -> list[StageRow]:
    """A row a stage, in the order in which they ran, the rest last.

    Args:
        times_s: seconds of a step by stage, as observed.
        costs: the stages of the layer's cost in this mode.
        ceilings: as a round has them.
    """
    whole_s, rates = sum(times_s.values()), Ceilings.of(ceilings)
    keys = [*(key for key in times_s if key != REST), *(key for key in times_s if key == REST)]
    rows = []
    for key in keys:
        counts = counts_of(key, list(times_s), costs)
        time_ms, share = 1e3 * times_s[key], times_s[key] / whole_s if whole_s else 0.0
        if counts is None:
            rows.append(StageRow(name=key.name, backward=key.backward, time_ms=time_ms, share=share, excess_ms=time_ms))
            continue
        floor_s, limit = rates.floor(counts.flops, counts.bytes_dram_expected, counts.row_bytes_dram_expected)
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
    """The counts of one timed stage, or None where nothing is counted for it."""
    parts = covered(key, timed, costs)
    if not parts:
        return None
    return Counts(
        flops=sum(cost.flops for cost in parts),
        bytes_min=sum(cost.bytes_min for cost in parts),
        bytes_dram_expected=sum(cost.bytes_dram_expected for cost in parts),
        row_bytes_dram_expected=sum(cost.row_bytes_dram_expected for cost in parts),
    )


def covered(key: StageKey, timed: Sequence[StageKey], costs: Sequence[StageCost]) -> list[StageCost]:
    """The costs that one timed stage covers.

    Those of its own name, and those that begin with it (``experts`` covers ``experts_up`` and ``experts_down``, which
    one fused stage computes) unless they were timed themselves.
    """
    if key == REST:
        return []
    names = {each.name for each in timed}

    def covers(cost: StageCost) -> bool:
        if cost.backward != key.backward:
            return False
        part = cost.name.startswith(f"{key.name}_") or key.name == _WHOLE_LAYER
        return cost.name == key.name or (part and cost.name not in names)

    return [cost for cost in costs if covers(cost)]
