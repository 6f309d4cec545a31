"""The latency budget: a dimension read off measured cases, never off a model of the hardware.

Latency rises with every dimension, so between measured sizes it is interpolated as a
monotone line in log-log; beyond them there is no answer.
"""

import json
import math
from collections.abc import Callable
from typing import Any

from membench.errors import UsageError
from membench.files import read_file
from membench.layers.spec import FreeDimension, Spec
from membench.planning.solver import TOLERANCE, BudgetError
from membench.results.records import MAX_RESULT_BYTES
from membench.results.rising import ROUNDING, interpolated, rising
from membench.scenario.budgets import Latency
from membench.scenario.dimensions import free_dimensions, missing_dimensions, with_placeholders
from membench.words import how_many

Record = dict[str, Any]
_BUDGET = "latency_ms"


def latency_dimension(kind: type[Spec], taken: set[str]) -> FreeDimension:
    """What a latency budget chooses: the first missing dimension that is not ``taken``, else the first optional one.

    Raises:
        BudgetError: every dimension is given or solved by another budget.
    """
    free = free_dimensions(kind)
    open_names = [name for name in (*missing_dimensions(kind, {}), *free) if name not in taken]
    if not open_names:
        raise BudgetError(_BUDGET, f"nothing is left to choose: leave out one of {', '.join(free)}")
    return free[open_names[0]]


def dimension_for_latency(
    kind: type[Spec],
    given: dict[str, Any],
    claimed: set[str],
    budget: Latency,
    tokens: int,
    ranks: int,
    records: Callable[[str], list[Record]],
    shared_by: str | None = None,
) -> tuple[str, int, float]:
    """The dimension, its value and the latency in milliseconds interpolated there.

    Args:
        kind: the layer's config class.
        given: dimensions that stay.
        claimed: dimensions that other budgets solve; measured cases may have any value of these.
        budget: the milliseconds asked for and the files to read.
        tokens: tokens of one rank that the measured cases must have, unless the budget says.
        ranks: ranks that they must have.
        records: the cases of a file, as ``read_records`` reads them.
        shared_by: how ranks share the layer in the measured cases.

    Raises:
        BudgetError: too few such cases, or the asked latency lies outside what they span.
        UsageError: a file cannot be read.
    """
    dimension = latency_dimension(kind, set(given) | claimed)
    free = {dimension.name, *claimed}
    layer = {k: v for k, v in with_placeholders(kind, given).model_dump(mode="json").items() if k not in free}
    wanted = {"mode": budget.mode, "tokens": budget.tokens or tokens, "ranks": ranks, "shared_by": shared_by}
    cases = [record for name in budget.measured for record in records(name)]
    points = rising(_measured(cases, wanted, kind, layer, dimension.name))
    where = f"{wanted['mode']} of {how_many(wanted['tokens'], 'token')} in {', '.join(budget.measured)}"
    if len(points) < 2:
        raise BudgetError(
            _BUDGET, f"{len(points)} measured sizes of {dimension.name} match this arm ({where}); measure at least 2"
        )
    (least, least_ms), (most, most_ms) = points[0], points[-1]
    if not least_ms * (1 - ROUNDING) <= budget.value <= most_ms * (1 + ROUNDING):
        raise BudgetError(
            _BUDGET,
            f"asked {budget.value:g} ms, measured is {least_ms:.4g} to {most_ms:.4g} ms ({dimension.name} {least:g} "
            f"to {most:g}, {where}): ask within, or measure further",
        )
    value = _on_grid(dimension, interpolated([(ms, size) for size, ms in points], budget.value))
    achieved_ms = interpolated(points, value)
    if abs(achieved_ms - budget.value) > TOLERANCE * budget.value:
        raise BudgetError(
            _BUDGET,
            f"asked {budget.value:g} ms, nearest is {achieved_ms:.4g} ms ({dimension.name} {value}): ask for that",
        )
    return dimension.name, value, achieved_ms


def _measured(
    records: list[Record], wanted: dict[str, Any], kind: type[Spec], layer: dict[str, Any], dimension: str
) -> list[tuple[float, float]]:
    """(value of the dimension, median latency in ms) of every matching case that went well."""
    found = []
    for record in records:
        case = record["case"]
        latency_ms = (record.get("metrics") or {}).get("latency_ms_p50")
        measured = case["layer"]
        if record.get("status") != "ok" or not latency_ms or not measured.get(dimension):
            continue
        if not all(case.get(k) == v for k, v in wanted.items()):
            continue
        if all(_value(kind, measured, k) == v for k, v in layer.items()):
            found.append((float(measured[dimension]), float(latency_ms)))
    return found


def _value(kind: type[Spec], measured: dict[str, Any], name: str) -> Any:
    """A measured layer's; the default where the file is from before there was such a field."""
    field = kind.model_fields[name]
    if name in measured or field.is_required():
        return measured.get(name)
    return field.get_default(call_default_factory=True, validated_data=measured)


def read_records(name: str) -> list[Record]:
    """The cases of a result file, each with its layer.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        records = json.loads(read_file(name, MAX_RESULT_BYTES, "a result file"))["cases"]
        parts = [part for record in records for part in (record["case"]["layer"], record.get("metrics") or {})]
        if not all(isinstance(part, dict) for part in parts):
            raise TypeError
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError("is no result file: a JSON with cases is expected", source=name) from None
    return records


def _on_grid(dimension: FreeDimension, value: float) -> int:
    if dimension.square:
        return round(math.sqrt(value)) ** 2
    return dimension.minimum + max(0, round((value - dimension.minimum) / dimension.step)) * dimension.step
