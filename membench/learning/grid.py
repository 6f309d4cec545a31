"""Which rates are tried for an arm: those of the grid first, then beyond its edges, then between the best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from membench.layers.spec import Spec
from membench.learning.settings import Training

LEARNING_RATE, TABLE_RATE, BALANCE = "learning_rate", "table_learning_rate", "balance_weight"
_STEP = 2.0  # from a rate to the next where the grid has only one
Rates = dict[str, float]


@dataclass(frozen=True, slots=True)
class Tried:
    """Rates that were tried, and the answer NLL that came of them; infinity where training diverged."""

    rates: Rates
    nll: float


def axes_of(training: Training, layer: Spec) -> dict[str, tuple[float, ...]]:
    """The values of each rate that an arm has, rising: tables' only where it trains any, balancing's of mixtures alone.

    Empty: nothing is tuned.
    """
    tuning = training.tuning
    if tuning is None:
        return {}
    axes = {LEARNING_RATE: tuning.learning_rates}
    if layer.table_params and not training.frozen_tables:
        axes[TABLE_RATE] = tuning.table_learning_rates
    if layer.balance_weight_used is not None:
        axes[BALANCE] = tuning.balance_weights
    return {name: tuple(sorted(set(values))) for name, values in axes.items() if values}


def grid_size(training: Training, layer: Spec) -> int:
    """The points of an arm's grid as it is stated; 0: nothing is tuned."""
    axes = axes_of(training, layer)
    return math.prod(map(len, axes.values())) if axes else 0


def grid(axes: Mapping[str, Sequence[float]]) -> list[Rates]:
    """All combinations."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def best(tried: Sequence[Tried]) -> Tried:
    """The one of the lowest NLL; of equal ones the lowest rates."""
    return min(tried, key=lambda each: (each.nll, *each.rates.values()))


def beyond_edge(tried: Sequence[Tried]) -> Rates | None:
    """The best with its rate one further, where that lies on an edge of what was tried; None: it lies inside.

    A rate of which only one value was tried is on both edges: the higher is tried first.
    """
    found = best(tried)
    for name, value in found.rates.items():
        known = _tried_values(tried, name)
        at = known.index(value)
        further = []
        if at == len(known) - 1:
            further.append(value * _ratio(known, at - 1))
        if at == 0 and value > 0:
            further.append(value / _ratio(known, 0))
        for each in filter(_is_rate, further):
            rates = {**found.rates, name: float(f"{each:.6g}")}
            if not _is_known(rates, tried):
                return rates
    return None


def between(tried: Sequence[Tried]) -> Rates:
    """A point that was not tried, between the best and its neighbours: of the widest gap, the geometric middle."""
    found = best(tried)
    gaps = []
    for name, value in found.rates.items():
        known = _tried_values(tried, name)
        at = known.index(value)
        neighbours = [known[i] for i in (at - 1, at + 1) if 0 <= i < len(known)] or [value * _STEP, value / _STEP]
        for other in neighbours:
            low, high = sorted((value, other))
            middle = math.sqrt(low) * math.sqrt(high) if low > 0 else high / 2
            ratio = high / low if low > 0 else math.inf
            gaps.append((ratio, {**found.rates, name: float(f"{middle:.6g}")}))
    unknown = [gap for gap in gaps if not _is_known(gap[1], tried)]
    return max(unknown, key=lambda gap: gap[0])[1]


def _is_rate(value: float) -> bool:
    """What is beyond the largest number, or the smallest, is none."""
    return 0 < value < math.inf


def _tried_values(tried: Sequence[Tried], name: str) -> list[float]:
    return sorted({each.rates[name] for each in tried})


def _ratio(known: Sequence[float], at: int) -> float:
    """From a value to the next above."""
    if len(known) < 2 or known[max(at, 0)] == 0:
        return _STEP
    at = max(at, 0)
    return known[at + 1] / known[at]


def _is_known(rates: Rates, tried: Sequence[Tried]) -> bool:
    return any(all(math.isclose(rates[name], each.rates[name], rel_tol=1e-4) for name in rates) for each in tried)
