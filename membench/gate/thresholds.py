"""``gate.yaml``: what counts as a regression, by metric and by case."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from membench.case import Case
from membench.errors import UsageError, blaming, suggestion, usage_error
from membench.gate.metrics import COUNTED, LEARNT, METRIC_NAMES, CountedMetric, LearntMetric, TimedMetric
from membench.layers.spec import Mode, Optimizer
from membench.yaml_files.reader import parse_mapping, read_text

DEFAULT_FILE = "gate.yaml"
_NEEDS = "thresholds need metrics or cases"


class Threshold(BaseModel):
    """What one metric may do. What is not said stays as it is by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    margin: float | None = Field(default=None, gt=0, le=10, description="a timing's least slowdown that matters: 0.03")
    floor: float | None = Field(default=None, ge=0, description="the least difference that matters, in its unit")
    noise_floor: float | None = Field(
        default=None, ge=0, le=10, description="what two measurements of the same code differ by on this machine"
    )
    tolerance: float | None = Field(default=None, ge=0, le=1000, description="by how much a count may grow: 0.01")
    limit: float | None = Field(default=None, description="no value may be above this, whatever the baseline says")


_Metrics = dict[str, Threshold]


class CaseThresholds(BaseModel):
    """Thresholds of the cases that match all that is said; ``arm`` may hold * and ?, ``id`` is a beginning."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    arm: str = "*"
    mode: Mode | None = None
    optimizer: Optimizer | None = None
    tokens: int | None = None
    id: str = ""
    metrics: _Metrics

    def matches(self, case: Case) -> bool:
        """Whether this entry is about a case."""
        asked = (self.mode, case.mode), (self.optimizer, case.optimizer), (self.tokens, case.tokens)
        same = all(wanted in (None, found) for wanted, found in asked)
        return same and fnmatchcase(case.arm, self.arm) and case.id.startswith(self.id)


class Thresholds(BaseModel):
    """The whole file. Of several entries that match a case the last that sets a value counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_version: int = 1
    metrics: _Metrics = {}
    cases: list[CaseThresholds] = []

    @field_validator("schema_version")
    @classmethod
    def _known_version(cls, value: int) -> int:
        if value != 1:
            raise ValueError(f"{value} is not supported; this membench reads 1")
        return value


@dataclass(frozen=True, slots=True)
class MetricThresholds:
    """The thresholds of one metric of one case."""

    margin: float | None
    user_margin: float | None
    floor: float
    tolerance: float
    limit: float | None

    @property
    def too_noisy(self) -> bool:
        """Whether the noise of the machine is more than twice the slowdown that matters."""
        return bool(self.margin and self.user_margin and self.margin > 2 * self.user_margin)


def limits(thresholds: Thresholds, case: Case, metric: TimedMetric | CountedMetric | LearntMetric) -> MetricThresholds:
    """What one metric of one case may do: the defaults, then the file's metrics, then its matching cases."""
    said: dict[str, float] = {}
    for source in (thresholds.metrics, *(entry.metrics for entry in thresholds.cases if entry.matches(case))):
        if metric.name in source:
            said |= source[metric.name].model_dump(exclude_none=True)
    if isinstance(metric, CountedMetric):
        return MetricThresholds(None, None, 0.0, said.get("tolerance", metric.tolerance), said.get("limit"))
    if isinstance(metric, LearntMetric):
        return MetricThresholds(None, None, said.get("floor", metric.floor), 0.0, None)
    user_margin = said.get("margin", metric.margin)
    margin = None if user_margin is None else max(user_margin, said.get("noise_floor", 0.0))
    return MetricThresholds(margin, user_margin, said.get("floor", metric.floor), 0.0, said.get("limit"))


def load_thresholds(path: str | None) -> Thresholds:
    """The thresholds of the file named, else of ``gate.yaml`` here, else the defaults.

    Raises:
        UsageError: the file cannot be read, or a key or value in it makes no sense.
    """
    if path is None:
        if not Path(DEFAULT_FILE).is_file():
            return Thresholds()
        path = DEFAULT_FILE
    with blaming(path):
        content = parse_mapping(read_text(Path(path), _NEEDS), path, _NEEDS)
        try:
            thresholds = Thresholds.model_validate(content)
        except ValidationError as error:
            raise usage_error(error, Thresholds) from None
        named = [("metrics", thresholds.metrics)]
        named += [(f"cases[{i}].metrics", entry.metrics) for i, entry in enumerate(thresholds.cases)]
        for key, metrics in named:
            _check_metrics(key, metrics)
    return thresholds


def _check_metrics(key: str, metrics: _Metrics) -> None:
    counted, learnt = {metric.name for metric in COUNTED}, {metric.name for metric in LEARNT}
    for name, threshold in metrics.items():
        if name not in METRIC_NAMES:
            raise UsageError(f"unknown metric; {suggestion(name, METRIC_NAMES)}", key=f"{key}.{name}")
        foreign = ("margin", "floor", "noise_floor") if name in counted else ("tolerance",)
        if name in learnt:
            foreign = ("margin", "noise_floor", "tolerance", "limit")
        for field in foreign:
            if getattr(threshold, field) is not None:
                what = "a count: it has a tolerance" if name in counted else "a timing: it has a margin"
                what = "what was learnt: it has a floor" if name in learnt else what
                raise UsageError(f"{name} is {what}", key=f"{key}.{name}.{field}")
