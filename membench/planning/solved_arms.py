"""The arms of one point, solved together: a budget may be another arm's size."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import ValidationError

from membench.errors import UsageError, usage_error
from membench.layers.spec import ModelSpec, Spec
from membench.planning.latency import Record, dimension_for_latency, read_records
from membench.planning.solver import Ask, BudgetError, quantity, solve
from membench.scenario.arms import Arm
from membench.scenario.budgets import Budgets
from membench.scenario.dimensions import capacity_dimensions
from membench.scenario.scenario import Point
from membench.scenario.settings import Workload

CAPACITY_BUDGETS = ("params", "stored_bytes")


@dataclass(frozen=True)
class SolvedArm:
    """An arm whose every dimension is known.

    ``asked`` and ``achieved`` are by budget; achieved also has flops_per_token and params
    where the layer's cost is known.
    """

    name: str
    spec: Spec
    asked: dict[str, float] = field(default_factory=dict)
    achieved: dict[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def planned_zipf_exponent(workload: Workload) -> float:
    """The skew under which a plan expects unique rows; the layer's own routing counts as even."""
    return workload.routing.zipf_exponent if workload.routing.kind == "zipf" else 0.0


def solve_points(points: Iterable[Point], ranks: int = 1) -> list[dict[str, SolvedArm]]:
    """Every arm of each point with its budgets met; what several arms or points ask alike is solved once.

    Args:
        points: the arms and budgets.
        ranks: ranks of the measured cases that a latency budget may use.

    Raises:
        UsageError: a budget cannot be met, budgets refer to each other in a circle, or a
            dimension is missing.
    """
    known = _Known()
    return [_Solver(point, ranks, 1.0, {}, known).arms() for point in points]


def solve_shrunk(
    points: Iterable[Point], wholes: list[dict[str, SolvedArm]], scale: float, ranks: int = 1
) -> list[dict[str, SolvedArm]]:
    """The points again with their parameters scaled: what holds them (rows, experts) is solved anew.

    ``asked`` stays what was asked of ``wholes``, the unscaled solutions.
    """
    known = _Known()
    pairs = zip(points, wholes, strict=True)
    return [_Solver(point, ranks, scale, whole, known).arms() for point, whole in pairs]


@dataclass(frozen=True)
class _Known:
    """What the points share: configs by what was asked, and the cases of measured files."""

    specs: dict[tuple[Any, ...], Spec] = field(default_factory=dict)
    records: Callable[[str], list[Record]] = field(default_factory=lambda: cache(read_records))


class _Solver:
    """Solves the arms of a point on demand, those that budgets name first."""

    def __init__(self, point: Point, ranks: int, scale: float, whole: dict[str, SolvedArm], known: _Known) -> None:
        self.point, self.ranks, self.scale, self.whole, self.known = point, ranks, scale, whole, known
        self.zipf = planned_zipf_exponent(point.workload)
        self.done: dict[str, SolvedArm] = {}
        self.open: list[str] = []

    def arms(self) -> dict[str, SolvedArm]:
        return {name: self.arm(name) for name in self.point.arms}

    def arm(self, name: str) -> SolvedArm:
        if name in self.open:
            circle = " -> ".join([*self.open[self.open.index(name) :], name])
            raise UsageError(
                f"budgets go in a circle ({circle}): give one of these a quantity, or budgets: {{}}", key=f"arms.{name}"
            )
        if name not in self.done:
            self.open.append(name)
            self.done[name] = self.solved(self.point.arms[name])
            self.open.pop()
        return self.done[name]

    def solved(self, arm: Arm) -> SolvedArm:
        """The arm with every open dimension solved from its budgets, or from those of all arms."""
        if not arm.kind.COUNTED:
            if arm.budgets and (arm.budgets.amounts() or arm.budgets.latency_ms):
                raise UsageError("a layer from outside has no dimensions to solve", key=f"arms.{arm.name}.budgets")
            return SolvedArm(arm.name, arm.kind.model_validate(arm.given), notes=("counted when built",))
        budgets = self.point.budgets.without_arm(arm.name) if arm.budgets is None else arm.budgets
        asks, given = list(self.asks(arm, budgets)), arm.given
        if self.scale != 1.0:
            given = self.shrunk(arm, asks)
        try:
            given, latency_ms = self.given_for_latency(arm, given, budgets)
            spec = self.around(arm, self.solution(arm.kind, given, asks))
        except BudgetError as error:
            raise self.blamed(arm, error) from None
        sizes = {name: quantity(spec, name) for name in ("flops_per_token", "params")}
        return SolvedArm(
            arm.name,
            spec,
            asked=self.asked(arm, asks, budgets),
            achieved={**sizes, **{ask.budget: ask.of_whole(spec) for ask in asks}, **latency_ms},
            labels=spec.arm_labels(arm.given),
        )

    @staticmethod
    def around(arm: Arm, layer: Spec) -> Spec:
        """What is measured of an arm whose layer is this."""
        try:
            return arm.around(layer)
        except ValidationError as error:
            raise UsageError(usage_error(error, ModelSpec).problem, key=f"arms.{arm.name}") from None

    def solution(self, kind: type[Spec], given: dict[str, Any], asks: list[Ask]) -> Spec:
        """The config that meets the asks, found once."""
        asked = (kind, repr(sorted(given.items())), *asks)
        specs = self.known.specs
        if asked not in specs:
            specs[asked] = solve(kind, given, asks)
        return specs[asked]

    def asked(self, arm: Arm, asks: list[Ask], budgets: Budgets) -> dict[str, float]:
        """The budgets as numbers; those of the whole where this is the shrunk solution."""
        if whole := self.whole.get(arm.name):
            size = {"params": whole.achieved["params"]} if capacity_dimensions(arm.kind) else {}
            return {**size, **whole.asked}
        latency_ms = {"latency_ms": budgets.latency_ms.value} if budgets.latency_ms else {}
        return {**{ask.budget: ask.value for ask in asks}, **latency_ms}

    def shrunk(self, arm: Arm, asks: list[Ask]) -> dict[str, Any]:
        """What stays given of an arm when its rows or experts are solved anew; adds the ask they are solved for."""
        capacity = capacity_dimensions(arm.kind)
        if capacity and not any(ask.budget in CAPACITY_BUDGETS for ask in asks):
            params = quantity(self.whole[arm.name].spec, "params") * self.scale
            asks.append(Ask("params", params, whole=arm.whole))
        return {key: value for key, value in arm.given.items() if key not in capacity}

    def asks(self, arm: Arm, budgets: Budgets) -> Iterator[Ask]:
        """The arm's budgets as numbers; an arm's name becomes what that arm achieves."""
        for name, amount in budgets.amounts().items():
            tokens, zipf = 1, 0.0  # of these, nothing but moved_bytes depends on either
            if name == "moved_bytes" and budgets.moved_bytes:
                tokens, zipf = budgets.moved_bytes.tokens, self.zipf
            if isinstance(amount, str):
                other = self.arm(amount)
                if not other.spec.COUNTED:
                    raise UsageError(
                        f"arm {amount!r} is a layer from outside, counted only when built; give a quantity",
                        key=f"arms.{arm.name}.budgets.{name}",
                    )
                value = quantity(other.spec, name, tokens, zipf)
            else:
                value = amount * (self.scale if name in CAPACITY_BUDGETS else 1.0)
            yield Ask(name, value, tokens, zipf, arm.whole)

    def given_for_latency(
        self, arm: Arm, given: dict[str, Any], budgets: Budgets
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """What is given, with the dimension that a latency budget chose; and its latency."""
        if budgets.latency_ms is None:
            return given, {}
        claimed = {each.name for budget in budgets.amounts() for each in arm.kind.FREE[budget]}
        name, value, latency_ms = dimension_for_latency(
            arm.kind,
            given,
            claimed - set(given),
            budgets.latency_ms,
            self.point.workload.tokens,
            self.ranks,
            self.known.records,
            arm.shared_by,
        )
        return {**given, name: value}, {"latency_ms": latency_ms}

    def blamed(self, arm: Arm, error: BudgetError) -> UsageError:
        """The error with the key that states the budget: the arm's own, or the scenario's."""
        if self.scale != 1.0:
            return UsageError(f"arm {arm.name} cannot shrink to {self.scale:g}: {error}", key="fit.policy")
        if not error.budget:
            return UsageError(str(error), key=f"arms.{arm.name}")
        if arm.budgets is None:
            return UsageError(f"arm {arm.name}: {error}", key=f"budgets.{error.budget}")
        return UsageError(str(error), key=f"arms.{arm.name}.budgets.{error.budget}")
