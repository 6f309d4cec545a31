"""Whether two result files are of one machine, by the facts that their environments hold.

Facts and no hash: memory as a kernel tells it differs by some megabytes from boot to boot, and a hash of a rounded
number flips where that crosses an edge. A fact that either file does not know does not tell them apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from membench.json_values import positive, text, value_at

_TOLERANCE = 0.05  # kernels keep more or less memory back; error correction of a GPU takes a sixteenth of it


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.3g} GB"


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that makes a machine another. A number may differ by its ``tolerance``, as a share."""

    name: str
    where: tuple[str, ...]
    show: Callable[[Any], str] = str
    tolerance: float = 0.0

    @property
    def key(self) -> str:
        return ".".join(self.where)

    def clean(self, value: Any) -> Any:
        """None where it is not known: an empty list or name says nothing."""
        if self.tolerance or self.show is _gigabytes:
            return positive({self.key: value}, self.key)
        if isinstance(value, list):
            return [word for word in value if isinstance(word, str)] or None
        return value if isinstance(value, (str, int, float)) and value != "" else None

    def differs(self, one: Any, other: Any) -> bool:
        if one is None or other is None or one == other:
            return False
        return not self.tolerance or abs(math.log(one / other)) > self.tolerance

    def words(self, value: Any, beside: Any) -> str:
        """The value; of a list what the one beside it lacks."""
        if isinstance(value, list) and isinstance(beside, list):
            return " ".join(word for word in value if word not in beside) or "none more"
        return self.show(value)


FACTS = (
    Fact("device", ("device", "type")),
    Fact("name", ("device", "name")),
    Fact("cores", ("device", "cores")),
    Fact("memory", ("device", "memory_bytes"), _gigabytes, _TOLERANCE),
    Fact("cache", ("device", "cache_bytes"), _gigabytes),
    Fact("instruction sets", ("device", "vector_extensions")),
    Fact("instruction sets", ("device", "instruction_sets")),
    Fact("processor model", ("device", "model")),
    Fact("physical cores", ("device", "physical_cores")),
    Fact("compute capability", ("device", "capability")),
    Fact("host processor", ("host", "name")),
    Fact("power limit in watts", ("nvml", "power_limit_w"), str, _TOLERANCE),
    Fact("error correction", ("nvml", "ecc")),
    Fact("partition (MIG)", ("nvml", "mig")),
)
_NEEDED = ("device", "name", "cores", "memory")  # without these the fingerprint alone tells


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as a result file's environment tells of it. ``facts`` holds what is known, by its place there."""

    fingerprint: str
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, environment: dict[str, Any]) -> Self:
        """The machine of a result file."""
        return cls.known_by(
            text(environment, "fingerprint") or "", {fact.key: value_at(environment, *fact.where) for fact in FACTS}
        )

    @classmethod
    def known_by(cls, fingerprint: str, facts: dict[str, Any]) -> Self:
        """Of what facts say, by their keys; those that make no sense are unknown."""
        clean = {fact.key: fact.clean(facts.get(fact.key)) for fact in FACTS}
        return cls(fingerprint, {key: value for key, value in clean.items() if value is not None})

    @property
    def known(self) -> bool:
        """Whether it can be told from another at all."""
        return bool(self.fingerprint) or self._whole

    @property
    def _whole(self) -> bool:
        return all(fact.key in self.facts for fact in FACTS if fact.name in _NEEDED)

    def difference(self, other: "Machine") -> str | None:
        """In what the other machine differs, ``memory 25.3 GB and 50.5 GB``; None where they are one."""
        for fact in FACTS:
            one, two = (each.facts.get(fact.key) for each in (self, other))
            if fact.differs(one, two):
                return f"{fact.name} {fact.words(one, two)} and {fact.words(two, one)}"
        if self._whole and other._whole:
            return None
        if self.fingerprint and self.fingerprint == other.fingerprint:
            return None
        return "another fingerprint" if self.fingerprint and other.fingerprint else "the device is not known"
