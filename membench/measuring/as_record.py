"""Costs, checks and samples as a record keeps them."""

from collections.abc import Sequence
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


def reference_json(
    found: Verification | None, of_updates: Sequence[str] = (), bit_equal_to_round: int | None = None
) -> dict[str, Any] | None:
    """A check as a record keeps it; None where the layer has no reference.

    Args:
        of_updates: names of those errors that are of rows after an optimizer's update.
        bit_equal_to_round: the check was made in that round, and the answer is bit-equal.
    """
    if found is None:
        return None
    by = {} if bit_equal_to_round is None else {"bit_equal_to_round": bit_equal_to_round}
    return {
        **by,
        **({"of_updates": list(of_updates)} if of_updates else {}),
        "tokens": found.tokens,
        "errors": found.errors,
        "selection_shortfall": found.selection_shortfall,
        "tolerance": found.tolerance,
    }


def verification_of(recorded: dict[str, Any] | None) -> Verification | None:
    """The check of the answer that ``reference_json`` made a record of; updates are each round's own to check."""
    if recorded is None:
        return None
    errors = {name: error for name, error in recorded["errors"].items() if name not in recorded.get("of_updates", ())}
    return Verification(recorded["tokens"], errors, recorded["selection_shortfall"], recorded["tolerance"])


def sampling_json(samples: Samples) -> dict[str, Any]:
    """How samples were taken, without the samples and what disturbed them."""
    facts = asdict(samples)
    apart = ("seconds", "disturbed", "disturbance")
    return {name: value for name, value in facts.items() if name not in apart}
