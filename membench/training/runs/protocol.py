"""What a process that trains is asked and answers."""

from typing import Any

from pydantic import field_serializer

from membench.case import Case
from membench.processes.channel import Message
from membench.training.trained import Trained


class TrainCase(Message):
    """Train a case on one seed.

    ``cores``: the process's own, which one of several ranks has taken already; ``folder``: for its checkpoints, where
    rank 0 is; ``ceilings``: that another run has measured.
    """

    case: Case
    seed: int
    device: str
    cores: list[int]
    folder: str
    ceilings: dict[str, Any] = {}

    @field_serializer("case")
    def _with_kinds(self, case: Case) -> dict[str, Any]:
        return case.as_json()  # without its kind, which is a default, a layer would be of no kind


class CaseTrained(Message):
    """What came of it. ``ranks``: of each that trained it together its number and host."""

    trained: Trained
    ceilings: dict[str, Any]
    seconds: dict[str, float] = {}
    ranks: list[dict[str, Any]] = []
