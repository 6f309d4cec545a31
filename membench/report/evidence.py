"""One case as a page shows it: its name, its look, and every number that is known."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, fields

from membench.json_values import number, positive
from membench.report.palette import Style
from membench.results.ceilings import Ceilings
from membench.results.ranking import added_ms, arm_name, counted, own_sizes, peak_bytes, routing_name, step_ms
from membench.results.records import Record, Round
from membench.results.roofline import RooflinePoint

_LONGEST_S = 1e7  # of one call; more is no measurement


@dataclass(frozen=True, slots=True)
class Evidence:
    """A record with its name and look. Every number is None where it is unknown."""

    record: Record
    name: str
    style: Style

    @classmethod
    def of(cls, record: Record, styles: dict[str, Style]) -> "Evidence":
        return cls(record, arm_name(record), styles[record.case.arm])

    def metric(self, name: str) -> float | None:
        return number(self.record.metrics, name)

    @property
    def measured(self) -> bool:
        return self.step_ms is not None

    @property
    def step_ms(self) -> float | None:
        return step_ms(self.record)

    @property
    def latency_ms(self) -> float | None:
        return positive(self.record.metrics, "latency_ms_p50")

    @property
    def communication_ms(self) -> float:
        """Predicted, on top of what was measured; 0 where none is needed or no link is known."""
        return added_ms(self.record)

    @property
    def rounds_ms(self) -> list[list[float]]:
        """The samples of each round that went well, in milliseconds."""
        return [kept for r in self._done if (kept := [1e3 * s for s in r.samples_s if 0 < s < _LONGEST_S])]

    @property
    def interval_ms(self) -> tuple[float, float] | None:
        """Where a step's time lies by its rounds, at 95 %; None with fewer than three."""
        low, high = positive(self.record.metrics, "step_ms_low"), positive(self.record.metrics, "step_ms_high")
        return None if low is None or high is None else (low, high)

    @property
    def floor_step_ms(self) -> float | None:
        """The least step that the measured ceilings allow: the floor of its compute, and its communication."""
        floor_ms = positive(self.record.metrics, "floor_ms")
        return None if floor_ms is None else floor_ms + self.communication_ms

    @property
    def tokens(self) -> float | None:
        """b, of one rank."""
        return positive(self.record.case.model_dump(include={"tokens"}), "tokens")

    @property
    def tokens_per_s(self) -> float | None:
        return positive(self.record.metrics, "tokens_per_s")

    @property
    def joules_per_token(self) -> float | None:
        return positive(self.record.metrics, "energy_j_per_token")

    @property
    def stored_bytes(self) -> float | None:
        return counted(self.record, "stored_bytes")

    @property
    def peak_bytes(self) -> float | None:
        return peak_bytes(self.record)

    @property
    def flops_per_token(self) -> float | None:
        return number(self.record.achieved, "flops_per_token")

    @property
    def num_keys(self) -> float | None:
        return positive(own_sizes(self.record), "num_keys")

    @property
    def routing(self) -> str:
        return routing_name(self.record)

    @property
    def roofline_point(self) -> RooflinePoint | None:
        """The work of one step and the time that its compute took."""
        cost = self._done[-1].cost if self._done else {}
        flops, moved = number(cost, "flops"), number(cost, "bytes_dram_expected")
        if flops is None or moved is None or self.latency_ms is None:
            return None
        return RooflinePoint(self.name, flops, moved, self.latency_ms / 1e3)

    @property
    def _done(self) -> list[Round]:
        return [r for r in self.record.rounds if r.status == "ok"]


def ceilings_of(cases: Iterable[Evidence]) -> Ceilings:
    """The median of what the cases' processes measured; of rows, over all the layouts that they read."""
    measured = [Ceilings.of(r.ceilings) for case in cases for r in case.record.rounds if r.status == "ok"]
    return Ceilings(*(_median([getattr(each, field.name) for each in measured]) for field in fields(Ceilings)))


def by_step(cases: Iterable[Evidence]) -> list[Evidence]:
    """Those that were measured, the fastest step first: the order of rows in every plot."""
    return sorted((case for case in cases if case.measured), key=lambda case: case.step_ms or 0.0)


def _median(values: list[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.median(found) if found else None
