"""What a worker process is asked and answers: one conversation for ``run``, ``profile`` and ``ab``.

Both sides of it are of one membench, but in an ``ab`` of two revisions of membench: ``PROTOCOL`` is raised when a
message changes so that an earlier membench would not understand it.
"""

from typing import Any, Self

from pydantic import field_serializer

from membench.case import Case
from membench.measuring.checked_answer import CheckedAnswer
from membench.processes.channel import Message
from membench.scenario.settings import Measure

PROTOCOL = 2


class Join(Message):
    """Be one of the ranks that measure together: the first question, where there are several.

    ``meeting`` says where they meet: ``file:///…`` or ``tcp://host:port/prefix``. ``local_ranks`` are on this host, who
    divide its cores among themselves, or have a GPU each.
    """

    device: str
    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    meeting: str
    threads: int | None = None
    timeout_seconds: float


class Joined(Message):
    """All ranks have met."""


class Build(Message):
    """Build what these cases share, and get ready to measure them: the first question."""

    device: str
    threads: int | None = None
    cases: list[Case]
    min_samples: int
    floor_samples: int
    max_seconds: float
    warmup_seconds: float
    implementations: list[str]
    retake_seconds: float = 0.0
    ceilings: dict[str, Any] = {}  # of the machine, from another process of the same round; empty: measure them
    inputs_folder: str | None = None  # for drawn inputs, which other processes of the run share

    @field_serializer("cases")
    def _as_earlier_ones_read_them(self, cases: list[Case]) -> list[dict[str, Any]]:
        return [case.as_json() for case in cases]  # a side of an ab may be of an earlier commit

    @classmethod
    def of(cls, cases: list[Case], device: str, measure: Measure, *, retake: bool = False) -> Self:
        """The cases measured as a scenario says; disturbed samples are taken again only with ``retake``."""
        same = (cls.model_fields.keys() & Measure.model_fields.keys()) - {"retake_seconds"}
        seconds = measure.retake_budget_seconds if retake else 0.0
        return cls(device=device, cases=cases, retake_seconds=seconds, **measure.model_dump(include=same))


class Built(Message):
    """What a round says of the process and of what was built."""

    origin: str
    threads: int
    ceilings: dict[str, Any] = {}
    huge_pages: bool | None = None
    seconds: dict[str, float] = {}

    def facts(self) -> dict[str, Any]:
        """What every round of this process says."""
        return self.model_dump(exclude={"origin"})


class MeasureCase(Message):
    """Check and time a case; ``Found`` has what a round says of it.

    ``checked``: by an earlier round; ``memory``: measure that too; ``pacer``: in turn with its pacer.
    """

    index: int
    checked: CheckedAnswer | None = None
    memory: bool = True
    pacer: bool = False


class Found(Message):
    """What was found out of a case."""

    found: dict[str, Any]


class PrepareCase(Message):
    """Make a case the one that is timed: checked and warm."""

    index: int


class Prepared(Message):
    """It can be timed. ``fastest_s``: of one call while it was warmed up; so many are timed as one step."""

    fastest_s: float
    warmup_calls: int
    calls_in_step: int = 1
    steady: bool


class TakeSamples(Message):
    """Time the prepared case so often, each sample so many calls."""

    samples: int
    calls: int


class Sampled(Message):
    """Seconds a call."""

    seconds: list[float]


class TellFacts(Message):
    """All that a round says of the prepared case beside its samples; answered with ``Found``."""


class ProfileCase(Message):
    """Check a case and time its stages; its traces go to the folder ``trace``. Answered with ``Found``."""

    index: int
    trace: str | None = None
