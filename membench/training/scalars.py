"""The curve of a run as TensorBoard scalars, by torch's own writer, written as it goes."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from membench.training.trained import Point

FOLDER = "tensorboard"


class Scalars:
    """Writes each point under its step; nothing where TensorBoard is not installed, or no more on a full disk."""

    def __init__(self, folder: Path | None, steps_before: int) -> None:
        self._writer: Any = None
        if folder is not None:
            with suppress(ImportError, OSError):
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(folder / FOLDER), purge_step=steps_before + 1)

    def add(self, point: Point) -> None:
        """One point."""
        if self._writer is None:
            return
        own = point.model_dump(exclude={"step", "metrics"})
        try:
            for name, value in {**own, **{f"asked/{name}": value for name, value in point.metrics.items()}}.items():
                if value is not None:
                    self._writer.add_scalar(name if "/" in name else f"trained/{name}", value, point.step)
            self._writer.flush()
        except OSError:
            self._writer = None

    def close(self) -> None:
        """The file is whole then."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
