"""What the inputs really touch: unique rows, active experts, loads, dropped tokens. Counted, untimed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from membench.layers.external import External
from membench.layers.layer import Layer, RemoteAssignments, RemoteLookups
from membench.layers.moe import MoE
from membench.layers.spec import GroupedExpertsSpec, MemorySpec, MoESpec, PeerSpec, RowOperatorSpec
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
    spec = layer.counted_as
    if isinstance(layer, External) and layer.select(inputs[0].x) is None:
        return Traffic()
    if isinstance(spec, (MemorySpec, PeerSpec, RowOperatorSpec)):
        rows = [_rows(layer, item) for item in inputs]
        return Traffic(lookups=rows[0].numel(), unique_rows=_mean([len(r.unique()) for r in rows]))
    if isinstance(spec, (MoESpec, GroupedExpertsSpec)):
        loads = [_expert_load(layer, spec.num_experts, item) for item in inputs]
        shares = [load[load > 0] / load.sum() for load in loads]
        return Traffic(
            active_experts=_mean([int((load > 0).sum()) for load in loads]),
            assignments=_mean([int(load.sum()) for load in loads]),
            expert_load_max_over_mean=_mean([float(load.max() / load.double().mean()) for load in loads]),
            expert_load_entropy_bits=_mean([float(-(s * s.log2()).sum()) for s in shares]),
            dropped_tokens=_mean([_dropped(layer, item) for item in inputs]),
        )
    return Traffic()


def _mean(values: list[float] | list[int]) -> float:
    return sum(values) / len(values)


def _chosen(layer: Layer, item: Input) -> Tensor:
    """The indices in force: imposed ones, else the layer's own."""
    if item.routing is not None and item.routing.selected is not None:
        return item.routing.selected
    selection = layer.select(item.x)
    assert selection is not None
    return selection.indices


def _rows(layer: Layer, item: Input) -> Tensor:
    local, routing = _chosen(layer, item), item.routing
    if routing is not None and isinstance(routing.remote, RemoteLookups):
        return torch.cat([local.flatten(), routing.remote.indices.flatten()])
    return local.flatten()


def _expert_load(layer: Layer, num_experts: int, item: Input) -> Tensor:
    routing = item.routing
    if routing is not None and isinstance(routing.remote, RemoteAssignments):
        return routing.remote.counts
    chosen = _chosen(layer, item)
    return layer.load(chosen) if isinstance(layer, MoE) else torch.bincount(chosen.flatten(), minlength=num_experts)


def _dropped(layer: Layer, item: Input) -> int:
    """Tokens no expert took: only expert choice leaves any."""
    if not isinstance(layer, MoE) or layer.spec.choice == "token":
        return 0
    return layer.unrouted_tokens(layer.select(item.x).indices, len(item.x))
