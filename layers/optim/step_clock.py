"""A table optimizer's numbers where the table lies: what a captured step needs to count on when it is replayed."""

import torch
from torch import Tensor

from membench.layers.kernels.step_clock import Field, advance_, mixed_seed, new_clock


class StepClock:
    """A clock of ``layers.kernels.step_clock`` and what the host has written into it.

    The host writes only what has changed: in a captured step nothing, so that a replay changes nothing back.
    """

    def __init__(self, device: torch.device, *, number: int, seed: int) -> None:
        self.tensor: Tensor = new_clock(device)
        self._written: dict[Field, float] = {}
        self.number = number
        self._write({Field.TABLE_SEED: float(mixed_seed(seed))})

    @property
    def number(self) -> int:
        """The number of updates so far. On a GPU the host waits."""
        return int(self.tensor[Field.NUMBER])

    @number.setter
    def number(self, number: int) -> None:
        self.tensor[Field.NUMBER].fill_(number)

    def keep(self, *, learning_rate: float, weight_decay: float, betas: tuple[float, float], seed: int) -> None:
        """Writes what the next update goes by, where it is another than before. The host does not wait."""
        beta1, beta2 = betas
        self._write(
            {
                Field.LEARNING_RATE: learning_rate,
                Field.WEIGHT_DECAY: weight_decay,
                Field.BETA1: beta1,
                Field.BETA2: beta2,
                Field.TABLE_SEED: float(mixed_seed(seed)),
            }
        )

    def advance(self, *, adam: bool) -> None:
        """On to the next update; ``adam``: of a rule that corrects its rate."""
        advance_(self.tensor, adam=adam)

    def _write(self, numbers: dict[Field, float]) -> None:
        for field, number in numbers.items():
            if self._written.get(field) != number:
                self.tensor[field].fill_(number)
                self._written[field] = number
