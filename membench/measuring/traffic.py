"""What the inputs really touch: unique rows, active experts, loads, dropped tokens. Counted, untimed."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from membench.layers.layer import Layer
from membench.measuring.inputs import Input


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one input, or means over several. Loads are over this rank's experts; None where nothing is routed."""

    lookups: int | None = None
    unique_rows: float | None = None
    active_experts: float | None = None
    assignments: float | None = None
    expert_load_max_over_mean: float | None = None
    expert_load_entropy_bits: float | None = None
    dropped_tokens: float | None = None

    @property
    def unique_per_lookup(self) -> float | None:
        """U/L."""
        if self.lookups is None or self.unique_rows is None:
            return None
        return self.unique_rows / self.lookups

    def as_json(self) -> dict[str, Any]:
        counted = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**counted, "unique_per_lookup": self.unique_per_lookup}


@torch.no_grad()
def traffic_of(layer: Layer, given: Input) -> Traffic:
    """Exact counts of what one input reads and computes on this rank; none where a layer does not tell its choice."""
    touched = layer.touched(given.x, given.routing)
    rows, load = touched.rows, touched.expert_load
    found = Traffic()
    if rows is not None:
        found = replace(found, lookups=rows.numel(), unique_rows=len(rows.unique()))
    if load is None:
        return found
    share = load[load > 0] / load.sum()
    return replace(
        found,
        active_experts=int((load > 0).sum()),
        assignments=int(load.sum()),
        expert_load_max_over_mean=float(load.max() / load.double().mean()),
        expert_load_entropy_bits=float(-(share * share.log2()).sum()),
        dropped_tokens=touched.dropped_tokens,
    )


def mean_traffic(counts: Sequence[Traffic]) -> Traffic:
    """The means over several inputs, which have as many lookups each."""
    names = [each.name for each in fields(Traffic) if each.name != "lookups"]
    means = {name: _mean([value for each in counts if (value := getattr(each, name)) is not None]) for name in names}
    return Traffic(lookups=counts[0].lookups, **means)


def count_traffic(layer: Layer, inputs: Sequence[Input]) -> Traffic:
    """Exact counts of what these inputs touch, as means."""
    return mean_traffic([traffic_of(layer, each) for each in inputs])


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
