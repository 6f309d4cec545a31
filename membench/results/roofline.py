"""What a roofline picture is made of beside the ceilings: how much work took how long."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RooflinePoint:
    """A stage, or a whole case: the work it does and the seconds it takes.

    ``bytes`` are those the time is judged by, as a rule the ones expected from DRAM.
    """

    name: str
    flops: float
    bytes: float
    seconds: float

    @property
    def intensity(self) -> float | None:
        """FLOPs a byte; None where nothing is moved."""
        return self.flops / self.bytes if self.bytes else None

    @property
    def flops_per_s(self) -> float | None:
        """None where it took no time that could be measured."""
        return self.flops / self.seconds if self.seconds else None

    @property
    def bytes_per_s(self) -> float | None:
        """None where it took no time that could be measured."""
        return self.bytes / self.seconds if self.seconds else None
