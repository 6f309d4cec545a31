"""What the inputs really touch: unique rows, active experts, loads, dropped tokens. Counted, untimed."""

from dataclasses import dataclass
from typing import Any

import torch

from membench.layers.layer import Layer
from membench.measuring.inputs import Input


@dataclass(frozen=True, slots=True)
class Traffic:
    """Means over the inputs. ``expert_load`` is over this rank's experts; None where nothing is routed."""

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
def count_traffic(layer: Layer, inputs: list[Input]) -> Traffic:
    """Exact counts of what these inputs read and compute on this rank; none where a layer does not tell its choice."""
    touched = [layer.touched(item.x, item.routing) for item in inputs]
    rows = [each.rows for each in touched if each.rows is not None]
    loads = [each.expert_load for each in touched if each.expert_load is not None]
    shares = [load[load > 0] / load.sum() for load in loads]
    return Traffic(
        lookups=rows[0].numel() if rows else None,
        unique_rows=_mean([len(each.unique()) for each in rows]),
        active_experts=_mean([int((load > 0).sum()) for load in loads]),
        assignments=_mean([int(load.sum()) for load in loads]),
        expert_load_max_over_mean=_mean([float(load.max() / load.double().mean()) for load in loads]),
        expert_load_entropy_bits=_mean([float(-(s * s.log2()).sum()) for s in shares]),
        dropped_tokens=_mean([each.dropped_tokens for each in touched if each.expert_load is not None]),
    )


def _mean(values: list[float] | list[int]) -> float | None:
    return sum(values) / len(values) if values else None
