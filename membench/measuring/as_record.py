"""Costs, checks and samples as a record keeps them."""

from dataclasses import asdict
from typing import Any

from membench.layers.checking.verification import Verification
from membench.layers.spec import Cost
from membench.measuring.time import Samples


def cost_json(cost: Cost) -> dict[str, Any]:
    """A Cost as a record keeps it: totals, stages, memory need, communication."""
    totals = (
        "params",
        "active_params",
        "rank_params",
        "stored_bytes",
        "flops",
        "flops_executed",
        "bytes_min",
        "bytes_issued",
        "bytes_dram_expected",
        "row_bytes_dram_expected",
    )
    return {
        **{name: getattr(cost, name) for name in totals},
        "stages": [asdict(stage) for stage in cost.stages],
        "memory_bytes": asdict(cost.memory),
        "communication_bytes": cost.communication_bytes,
        "is_expectation": cost.is_expectation,
    }


def reference_json(found: Verification | None) -> dict[str, Any] | None:
    """A check as a record keeps it; None where the layer has no reference."""
    if found is None:
        return None
    return {
        "tokens": found.tokens,
        "errors": found.errors,
        "selection_shortfall": found.selection_shortfall,
        "tolerance": found.tolerance,
    }


def sampling_json(samples: Samples) -> dict[str, Any]:
    """How samples were taken, without the samples and what disturbed them."""
    facts = asdict(samples)
    return {name: value for name, value in facts.items() if name not in ("seconds", "disturbed", "disturbance")}
