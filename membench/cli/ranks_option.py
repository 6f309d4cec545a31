"""The option ``--nproc``."""

from membench.errors import UsageError

MOST_RANKS = 256


def checked_ranks(ranks: int | None) -> int | None:
    """As it was given.

    Raises:
        UsageError: that is no number of processes.
    """
    if ranks is not None and not 1 <= ranks <= MOST_RANKS:
        raise UsageError(f"{ranks} processes share nothing: from 1 to {MOST_RANKS} can", source="--nproc")
    return ranks
