"""What is asked of every part, and what it answers."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from membench.layers.layer import torch_dtype
from membench.layers.spec import MemorySpec
from membench.layers.spec.quantities import DTypeName


@dataclass(frozen=True, slots=True)
class Sizes:
    """The layer that is measured, and how often.

    Attributes:
        num_keys: of every comparison at one size.
        key_counts: of the growth, ascending.
        dtype: of all that is measured.
        rounds: in which what is compared takes turns; quick steps take ``quick_rounds``.
    """

    model_dim: int = 512
    tokens: int = 512
    heads: int = 4
    top_k: int = 32
    key_dim: int = 512
    num_keys: int = 1024**2
    key_counts: tuple[int, ...] = (256**2, 512**2, 1024**2, 2048**2)
    rounds: int = 7
    dtype: DTypeName = "float32"

    @property
    def quick_rounds(self) -> int:
        return 4 * self.rounds

    def spec(self, num_keys: int | None = None) -> MemorySpec:
        """The layer's config."""
        return MemorySpec(
            model_dim=self.model_dim,
            num_keys=num_keys or self.num_keys,
            heads=self.heads,
            top_k=self.top_k,
            key_dim=self.key_dim,
            dtype=self.dtype,
        )

    def table_bytes(self, num_keys: int | None = None) -> int:
        return (num_keys or self.num_keys) * self.model_dim * torch_dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Answer:
    """One ratio that was asked for.

    Attributes:
        question: what over what.
        ratios: one a round; ``value`` is their median, None where nothing was measured.
        goal: what the value is to reach, or not to pass where ``at_most``; None where it stands beside another.
        milliseconds: medians of what was compared, by name.
        reason: why nothing was measured.
    """

    question: str
    ratios: Sequence[float] = ()
    goal: float | None = None
    at_most: bool = False
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None

    @classmethod
    def of_times(
        cls, question: str, above_s: Sequence[float], below_s: Sequence[float], names: tuple[str, str], **goal: Any
    ) -> "Answer":
        """The ratio of two times, round by round, in seconds."""
        times = dict(zip(names, (above_s, below_s), strict=True))
        milliseconds = {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}
        ratios = [above / below for above, below in zip(above_s, below_s, strict=True)]
        return cls(question, ratios, milliseconds=milliseconds, **goal)

    @property
    def value(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def met(self) -> bool | None:
        if self.value is None or self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "value": self.value, "met": self.met}

    def line(self) -> str:
        """For the table: the question, the times, the value, the goal."""
        if self.value is None:
            return f"{self.question:70} not measured: {self.reason}"
        goal = "" if self.goal is None else f"{'<=' if self.at_most else '>='} {self.goal:g}"
        met = {None: "", True: "met", False: "not met"}[self.met]
        times = ", ".join(f"{name} {ms:.4g} ms" for name, ms in self.milliseconds.items())
        return f"{self.question:70} {self.value:7.2f}  {goal:>7} {met:8} {times}".rstrip()


@dataclass(frozen=True, slots=True)
class Findings:
    """What a part found: its answers, what else a reader of the file may want, lines that explain."""

    answers: list[Answer]
    facts: dict[str, Any] = field(default_factory=dict)
    explanation: list[str] = field(default_factory=list)
