"""The answer at each comparable point: which step is fastest, by how much, and whether that is more than noise."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from membench.report.evidence import Evidence, by_step, overlap

_SAME_FLOPS = 0.01  # relative: what a budget may be missed by


@dataclass(frozen=True, slots=True)
class Standing:
    """An arm beside the fastest."""

    arm: str
    step_ms: float
    over_fastest: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One comparable point.

    ``standings`` are the measured arms, fastest first; ``tied`` those whose range (the middle half
    of the samples, and every round's median) overlaps the fastest one's. ``dense`` is the dense
    arm's place; ``at_dense_flops`` the fastest arm with the dense one's FLOPs a token, where there
    is such an arm besides dense itself, and ``tied_with_dense`` whether its range overlaps dense's.
    """

    compared_at: str
    standings: list[Standing]
    tied: list[str]
    dense: Standing | None
    at_dense_flops: Standing | None
    tied_with_dense: bool
    failed: list[str]

    @property
    def fastest(self) -> Standing | None:
        return self.standings[0] if self.standings else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def answer(compared_at: str, cases: Sequence[Evidence]) -> Answer:
    """The answer among cases that may be ranked against each other."""
    order = by_step(cases)
    best = order[0] if order else None
    standings = {
        id(c): Standing(c.name, c.step_ms or 0.0, (c.step_ms or 0.0) / (order[0].step_ms or 1.0)) for c in order
    }
    dense = next((c for c in order if c.record.case.layer.kind == "dense"), None)
    alike = [c for c in order if dense is not None and _same_flops(c, dense)]
    return Answer(
        compared_at,
        list(standings.values()),
        [c.name for c in order[1:] if best is not None and overlap(best, c)],
        standings[id(dense)] if dense is not None else None,
        standings[id(alike[0])] if len(alike) > 1 else None,
        dense is not None and bool(alike) and alike[0] is not dense and overlap(alike[0], dense),
        [c.name for c in cases if not c.measured],
    )


def _same_flops(one: Evidence, other: Evidence) -> bool:
    a, b = one.flops_per_token, other.flops_per_token
    return a is not None and b is not None and abs(a - b) <= _SAME_FLOPS * abs(b)
