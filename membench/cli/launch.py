"""How ``membench run`` finds the ranks that share its layers: by ``--nproc``, by what torchrun says, or none."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from membench.cli import exit_codes
from membench.cli.ranks_option import checked_ranks
from membench.errors import UsageError
from membench.processes.launcher import end_if_stuck
from membench.processes.line import RankLost
from membench.processes.remote import RunOver
from membench.running.follower import follow
from membench.running.hello import asked_of
from membench.running.launched import LaunchedRanks
from membench.running.launched_place import Place, place_of
from membench.running.ranks import LocalRanks, Ranks
from membench.scenario.scenario import Scenario
from membench.scenario.settings import Measure


@dataclass(frozen=True, slots=True)
class Launch:
    """What was asked for: ``nproc`` processes of this host, this process's ``place`` among torchrun's, or neither."""

    nproc: int | None
    place: Place | None

    @property
    def ranks(self) -> int | None:
        """How many share each layer; None: each is measured by one process."""
        return self.nproc if self.place is None else self.place.ranks

    @property
    def follows(self) -> bool:
        """Whether this process does what rank 0 says."""
        return self.place is not None and self.place.rank > 0

    def met(self, loaded: list[Scenario], *others: Any) -> AbstractContextManager[Ranks | None]:
        """The ranks, all there; of torchrun's, none that measures something else."""
        if self.place is not None:
            return _ended_with_its_launcher(
                self.place, LaunchedRanks(self.place, asked_of(loaded, *others), _timeout_seconds(loaded))
            )
        return nullcontext(None if self.nproc is None else LocalRanks(self.nproc))


def sharing(nproc: int | None) -> Launch:
    """What ``--nproc`` and torchrun's variables say.

    Raises:
        UsageError: both are there, or one makes no sense.
    """
    place = place_of(os.environ)
    if place is not None and nproc is not None:
        raise UsageError("torchrun has started the ranks: leave it out", source="--nproc")
    return Launch(checked_ranks(nproc), place)


def ended_with_rank_0(launch: Launch, load: Callable[[], list[Scenario]], *others: Any) -> int:
    """Be a rank that does what rank 0 says; its exit code."""
    assert launch.place is not None
    timeout_seconds = Measure().timeout_seconds
    try:
        loaded = load()
        asked, timeout_seconds = asked_of(loaded, *others), _timeout_seconds(loaded)
    except UsageError as error:
        asked = error
    try:
        over = follow(launch.place, asked, timeout_seconds)
    except RankLost as lost:
        over = RunOver(code=exit_codes.HARNESS, line=f"{lost}; this rank ends too")
    except UsageError:
        end_if_stuck(launch.place.name)
        raise
    if over.line is not None:
        print(f"membench: {launch.place.name}: {over.line}", file=sys.stderr)
    if over.code:
        end_if_stuck(launch.place.name)
    return over.code


@contextmanager
def _ended_with_its_launcher(place: Place, ranks: LaunchedRanks) -> Iterator[Ranks]:
    """The ranks; where the run goes wrong, what started this one ends too."""
    try:
        with ranks:
            yield ranks
    except BaseException:
        end_if_stuck(place.name)
        raise


def _timeout_seconds(loaded: list[Scenario]) -> float:
    return min(scenario.measure.timeout_seconds for scenario in loaded)
