"""What the inputs really touch: unique rows, active experts, loads, dropped tokens. Counted, untimed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layers.layer import Layer, RemoteAssignments, RemoteLookups
from layers.moe import MoE
from layers.spec import MemorySpec, PeerSpec
from membench.inputs import Input


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
    """Exact counts of what these inputs read and compute on this rank."""
    spec = layer.spec
    if isinstance(spec, (MemorySpec, PeerSpec)):
        rows = [_rows(layer, item) for item in inputs]
        return Traffic(lookups=rows[0].numel(), unique_rows=_mean([len(r.unique()) for r in rows]))
    if isinstance(layer, MoE):
        loads = [_expert_load(layer, item) for item in inputs]
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


def _rows(layer: Layer, item: Input) -> Tensor:
    routing = item.routing
    if routing is not None and routing.selected is not None:
        local = routing.selected
    else:
        selection = layer.select(item.x)
        assert selection is not None
        local = selection.indices
    if routing is not None and isinstance(routing.remote, RemoteLookups):
        return torch.cat([local.flatten(), routing.remote.indices.flatten()])
    return local.flatten()


def _expert_load(layer: MoE, item: Input) -> Tensor:
    routing = item.routing
    if routing is not None and isinstance(routing.remote, RemoteAssignments):
        return routing.remote.counts
    imposed = None if routing is None else routing.selected
    return layer.load(layer.select(item.x).indices if imposed is None else imposed)


def _dropped(layer: MoE, item: Input) -> int:
    """Tokens no expert took: only expert choice leaves any."""
    if layer.spec.choice == "token":
        return 0
    return layer.unrouted_tokens(layer.select(item.x).indices, len(item.x))
