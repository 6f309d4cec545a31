"""What of a training run processes that train one model together cannot do."""

from membench.errors import UsageError
from membench.learning.settings import Training


def check_shared(settings: Training, ranks: int) -> None:
    """Whether so many processes can train together by these settings.

    Raises:
        UsageError: they cannot; it names the key.
    """
    if settings.compiled:
        raise UsageError("should be false: a model that processes share is not compiled", key="training.compiled")
    parts = ranks * settings.accumulate
    if settings.sequences % parts:
        of_each = f"{ranks} processes" + (f" in {settings.accumulate} parts" if settings.accumulate > 1 else "")
        raise UsageError(
            f"{settings.sequences} cannot be divided evenly among {of_each}: take a multiple of {parts}",
            key="training.sequences",
        )
