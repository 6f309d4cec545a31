"""The iso solver: budgets in, dimensions out. Pure arithmetic.

Generic through each config's ``FREE``, which names the dimensions that may be chosen for
a budget. Every quantity rises with every dimension, so one dimension is found by
bisection over its grid; budgets that touch each other are solved in turn until none moves.
"""

import math
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from membench.layers.spec import FreeDimension, Spec, Step
from membench.layers.spec.quantities import format_quantity
from membench.scenario.dimensions import largest, missing_dimensions, with_placeholders
from membench.scenario.wholes import Whole

TOLERANCE = 0.01  # asked against achieved
_MAX_PASSES = 64

# Widths before capacities: table rows and experts hardly cost FLOPs, while widths
# guessed wrong can ask for more experts than the FLOPs of their router allow.
_ORDER = ("flops_per_token", "moved_bytes", "params", "stored_bytes")


class BudgetError(ValueError):
    """A budget cannot be met; the message names it, what is nearest and what would do."""

    def __init__(self, budget: str, problem: str) -> None:
        super().__init__(problem)
        self.budget = budget


@dataclass(frozen=True)
class Ask:
    """One budget as a number: FLOPs, parameters or bytes.

    ``tokens`` are those of moved_bytes, ``zipf_exponent`` the skew under which its unique
    rows are expected. ``whole`` is what a layer stands in whose size is asked for; None: it stands alone.
    """

    budget: str
    value: float
    tokens: int = 1
    zipf_exponent: float = 0.0
    whole: Whole | None = None

    def achieved(self, spec: Spec) -> float:
        """What there is of the quantity asked for with the layer ``spec``."""
        return self.of_whole(spec if self.whole is None else self.whole.around(spec, checked=False))

    def of_whole(self, spec: Spec) -> float:
        """What ``spec`` has of it, the layer or what it stands in."""
        return quantity(spec, self.budget, self.tokens, self.zipf_exponent)


def quantity(spec: Spec, budget: str, tokens: int = 1, zipf_exponent: float = 0.0) -> float:
    """What ``spec`` has of a budget's quantity, unsplit and in a forward pass.

    Args:
        spec: the whole layer.
        budget: flops_per_token, params, stored_bytes or moved_bytes.
        tokens: tokens of the pass, for moved_bytes.
        zipf_exponent: skew under which the unique rows of moved_bytes are expected.
    """
    if budget == "moved_bytes":
        return spec.cost(Step(tokens, zipf_exponent=zipf_exponent)).bytes_min
    cost = spec.cost(Step(1))
    return {"flops_per_token": cost.flops, "params": cost.params, "stored_bytes": cost.stored_bytes}[budget]


def solve(kind: type[Spec], given: dict[str, Any], asks: list[Ask]) -> Spec:
    """The config with what is given kept and what is left out chosen so that every ask is met.

    Args:
        kind: the config's class; its ``FREE`` says what may be chosen for which budget.
        given: dimensions and options that stay.
        asks: the budgets, at most one of each name.

    Raises:
        BudgetError: an ask cannot be met within 1 %, a dimension is missing that no ask
            solves, or the solution makes no sense for this kind.
    """
    asks = sorted(asks, key=lambda ask: _ORDER.index(ask.budget))
    claims = _claims(kind, given, asks)
    solved = [dimension for claim in claims.values() for dimension in claim]
    _check_missing(kind, given, {dimension.name for dimension in solved})
    spec = with_placeholders(kind, given).model_copy(update={each.name: each.minimum for each in solved})

    seen: set[tuple[int, ...]] = set()
    beside: dict[str, tuple[int, ...]] = {}  # what the other asks had chosen when one was last solved
    for _ in range(_MAX_PASSES):
        for ask in asks:
            others = tuple(getattr(spec, each.name) for each in solved if each not in claims[ask.budget])
            if beside.get(ask.budget) != others:
                spec = _choose(spec, ask, claims[ask.budget])
            beside[ask.budget] = others
        chosen = tuple(getattr(spec, dimension.name) for dimension in solved)
        if chosen in seen:
            break
        seen.add(chosen)

    for ask in asks:
        _check_met(spec, ask, claims[ask.budget])
    try:
        return kind.model_validate(spec.model_dump(), strict=True)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise BudgetError(asks[-1].budget if asks else "", f"what the budgets give makes no layer: {message}") from None


def nearest(kind: type[Spec], given: dict[str, Any], ask: Ask) -> Spec:
    """The config with what is given kept that comes nearest to one ask, however far from it that is.

    Raises:
        BudgetError: a dimension is missing that this ask does not solve.
    """
    dimensions = _claims(kind, given, [ask])[ask.budget]
    _check_missing(kind, given, {dimension.name for dimension in dimensions})
    least = with_placeholders(kind, given).model_copy(update={each.name: each.minimum for each in dimensions})
    return kind.model_validate(_choose(least, ask, dimensions).model_dump(), strict=True)


def _claims(kind: type[Spec], given: dict[str, Any], asks: list[Ask]) -> dict[str, list[FreeDimension]]:
    """The dimensions that each budget solves: its own, less those given or claimed before."""
    taken = set(given)
    claims: dict[str, list[FreeDimension]] = {}
    for ask in asks:
        claims[ask.budget] = [dimension for dimension in kind.FREE[ask.budget] if dimension.name not in taken]
        taken |= {dimension.name for dimension in claims[ask.budget]}
    return claims


def _check_missing(kind: type[Spec], given: dict[str, Any], solved: set[str]) -> None:
    for name in missing_dimensions(kind, given):
        if name not in solved:
            able = [budget for budget, dimensions in kind.FREE.items() if name in {each.name for each in dimensions}]
            raise BudgetError("", f"{name} is missing: give it, or a budget that solves it ({', '.join(able)})")


def _choose(spec: Spec, ask: Ask, dimensions: list[FreeDimension]) -> Spec:
    """``spec`` with these dimensions chosen for one ask, the others as they are.

    A coarse dimension is rounded down and a later one takes the remainder, unless rounded
    up and without a remainder it is as near.
    """
    if not dimensions:
        return spec

    def miss(candidate: Spec) -> float:
        return abs(ask.achieved(candidate) - ask.value)

    first, rest = dimensions[0], dimensions[1:]
    spec = spec.model_copy(update={later.name: later.minimum for later in rest})
    below, above = (_with(spec, first, value) for value in _neighbours(spec, first, ask))
    if first.coarse and rest:
        return min(above, _choose(below, ask, rest), key=miss)
    return _choose(min(below, above, key=miss), ask, rest)


def _neighbours(spec: Spec, dimension: FreeDimension, ask: Ask) -> tuple[int, int]:
    """The neighbouring values of a dimension's grid that the ask lies between; equal at the grid's ends."""
    low, high = 0, _last_index(type(spec), dimension)

    def achieved(index: int) -> float:
        return ask.achieved(_with(spec, dimension, _grid(dimension, index)))

    if achieved(low) >= ask.value:
        high = low
    elif achieved(high) <= ask.value:
        low = high
    while high - low > 1:
        middle = (low + high) // 2
        if achieved(middle) <= ask.value:
            low = middle
        else:
            high = middle
    return _grid(dimension, low), _grid(dimension, high)


def _with(spec: Spec, dimension: FreeDimension, value: int) -> Spec:
    return spec.model_copy(update={dimension.name: value})


def _grid(dimension: FreeDimension, index: int) -> int:
    """The value at an index: minimum, minimum + step, …; or the squares from the minimum's root."""
    if dimension.square:
        return (math.isqrt(dimension.minimum) + index) ** 2
    return dimension.minimum + index * dimension.step


def _last_index(kind: type[Spec], dimension: FreeDimension) -> int:
    top = largest(kind, dimension)
    if dimension.square:
        return math.isqrt(top) - math.isqrt(dimension.minimum)
    return (top - dimension.minimum) // dimension.step


def _check_met(spec: Spec, ask: Ask, dimensions: list[FreeDimension]) -> None:
    """Raises BudgetError unless asked and achieved agree within 1 %."""
    achieved = ask.achieved(spec)
    if abs(achieved - ask.value) <= TOLERANCE * ask.value:
        return
    asked, got = format_quantity(ask.value, 4), format_quantity(achieved, 4)
    if not dimensions and ask.whole is not None and spec.is_yardstick:  # the model's own FFN, if the arm names none
        stated = ", ".join(f"{each.name} {getattr(spec, each.name)}" for each in type(spec).FREE[ask.budget])
        problem = (
            f"asked {asked}, but with {stated} it is {got}: give another, ask for {got}, "
            "or give the arm budgets: {} to take it as it is"
        )
    elif not dimensions:
        fixed = ", ".join(each.name for each in type(spec).FREE[ask.budget])
        problem = f"asked {asked}, but with {fixed} given it is {got}: leave that out, or ask for {got}"
    elif achieved > ask.value and all(getattr(spec, each.name) == each.minimum for each in dimensions):
        least = ", ".join(f"{each.name} {each.minimum}" for each in dimensions)
        problem = f"asked {asked}, but it is {got} already with {least}: ask for {got} or more, or give less elsewhere"
    else:
        last = dimensions[-1]
        near = [
            f"{format_quantity(ask.achieved(_with(spec, last, value)), 4)} ({last.name} {value})"
            for value in dict.fromkeys(_neighbours(spec, last, ask))
        ]
        problem = f"asked {asked}, nearest within reach {' and '.join(near)}: ask for one of these"
    raise BudgetError(ask.budget, problem)
