"""Processes that measure one layer together make the same calls, so what one of them decides, all must decide alike.

What is decided by a clock, or by what one of them has seen, is therefore asked of all. Letters: P ranks.
"""

import time
from collections.abc import Sequence
from typing import Self

import torch
import torch.distributed as dist

from membench.machine.disturbance import Seen, Signal, Watch

_UNTOLD = -1.0  # in the place of a share that a machine does not tell


class RankSeconds(float):
    """The seconds of the slowest rank, with those of each."""

    of_ranks: tuple[float, ...] = ()

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        found = cls(max(seconds))
        found.of_ranks = tuple(seconds)
        return found


class Alone:
    """One process, which asks nobody."""

    rank, ranks = 0, 1

    @property
    def together(self) -> bool:
        """Whether there are others."""
        return False

    def now(self) -> float:
        """Seconds of a clock that only goes on."""
        return time.perf_counter()

    def meet(self) -> None:
        """Go on when all are here."""

    def seconds(self, own: Sequence[float]) -> list[float]:
        """Each as long as it took the slowest."""
        return list(own)

    def agree(self, own: bool) -> bool:
        """Whether all say so."""
        return own

    def watching(self, watch: Watch) -> Watch:
        """What disturbs one disturbs all."""
        return watch


class Together(Alone):
    """All processes of torch.distributed; they speak on their processors, whatever the layer is on."""

    def __init__(self) -> None:
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()

    @property
    def together(self) -> bool:
        return True

    def now(self) -> float:
        return max(max(each) for each in self.of_all([time.perf_counter()]))  # always that of the same host

    def meet(self) -> None:
        self.of_all([])

    def seconds(self, own: Sequence[float]) -> list[float]:
        return [RankSeconds.of(each) for each in zip(*self.of_all(own), strict=True)]

    def agree(self, own: bool) -> bool:
        return all(each[0] > 0 for each in self.of_all([float(own)]))

    def watching(self, watch: Watch) -> Watch:
        return _WatchOfAll(watch, self)

    def of_all(self, own: Sequence[float]) -> list[list[float]]:
        """Every rank's numbers, of which each has as many."""
        mine = torch.tensor([*own, 0.0], dtype=torch.float64)  # a message of nothing would be no meeting
        found = [torch.empty_like(mine) for _ in range(self.ranks)]
        dist.all_gather(found, mine)
        return [each[:-1].tolist() for each in found]


class _WatchOfAll(Watch):
    """What any of the ranks' watches has seen."""

    def __init__(self, own: Watch, ranks: Together) -> None:
        self._own, self._ranks, self.signals, self.device = own, ranks, own.signals, own.device

    def begin(self) -> None:
        self._own.begin()

    def mark(self) -> None:
        self._own.mark()

    def unseen(self) -> dict[str, str]:
        return self._own.unseen()

    def seen(self) -> Seen:
        own = self._own.seen()
        told = [_UNTOLD if (share := own.shares[name]) is None else share for name in self.signals]
        worst = [max(each) for each in zip(*self._ranks.of_all(told), strict=True)]
        shares: dict[Signal, float | None] = {
            name: None if share < 0 else share for name, share in zip(self.signals, worst, strict=True)
        }
        return Seen(shares, own.involuntary_switches)
