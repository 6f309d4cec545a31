"""The cost of several parts that are computed one after the other, from the costs of the parts."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from operator import attrgetter

from membench.layers.spec.cost import Cost, MemoryNeed, StageCost, Step

_ADDED = [each.name for each in fields(StageCost) if each.name not in ("name", "backward")]
_added = attrgetter(*_ADDED)


def joined(parts: Sequence[tuple[Cost, int]], step: Step) -> Cost:
    """Each part so many times. Stages of one name are one stage; what is unknown of every part stays so.

    A backward pass needs the activations of all parts, a forward pass those of one at a time.
    """
    activations = [cost.memory.activations * (count if step.has_backward else 1) for cost, count in parts]
    sent: dict[str, float] = {}
    for cost, count in parts:
        for name, sent_bytes in cost.communication_bytes.items():
            sent[name] = sent.get(name, 0.0) + count * sent_bytes
    return Cost(
        params=sum(count * cost.params for cost, count in parts),
        active_params=sum(count * cost.active_params for cost, count in parts),
        rank_params=sum(count * cost.rank_params for cost, count in parts),
        stored_bytes=sum(count * cost.stored_bytes for cost, count in parts),
        stages=joined_stages((stage, count) for cost, count in parts for stage in cost.stages),
        memory=MemoryNeed(
            weights=sum(count * cost.memory.weights for cost, count in parts),
            gradients=sum(count * cost.memory.gradients for cost, count in parts),
            optimizer=sum(count * cost.memory.optimizer for cost, count in parts),
            activations=sum(activations) if step.has_backward else max(activations, default=0.0),
            host=sum(count * cost.memory.host for cost, count in parts),
            kv_cache=sum(count * cost.memory.kv_cache for cost, count in parts),
        ),
        communication_bytes=sent,
        lookups=sum(count * cost.lookups for cost, count in parts),
        unique_rows=_known_sum((cost.unique_rows, count) for cost, count in parts),
        active_experts=_known_sum((cost.active_experts, count) for cost, count in parts),
        is_expectation=any(cost.is_expectation for cost, _ in parts),
    )


def joined_stages(stages: Iterable[tuple[StageCost, int]]) -> tuple[StageCost, ...]:
    """Those of one name and pass added up, in the order in which they first come."""
    found: dict[tuple[str, bool], list[float]] = {}
    for stage, count in stages:
        sums = found.setdefault((stage.name, stage.backward), [0.0] * len(_ADDED))
        for place, value in enumerate(_added(stage)):
            sums[place] += count * value
    return tuple(
        StageCost(name, backward=backward, **dict(zip(_ADDED, sums, strict=True)))
        for (name, backward), sums in found.items()
    )


def _known_sum(values: Iterable[tuple[float | None, int]]) -> float | None:
    known = [count * value for value, count in values if value is not None]
    return sum(known) if known else None
