"""A model asked what its task asks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from membench.layers.models.model import Model
from membench.learning.settings import Training
from membench.training.group import Group
from membench.training.task import Score, TaskData
from membench.training.update import bf16_where
from membench.training.usage import usage


class Evaluation:
    """Questions of a task's data to a model, at most as many as the settings say."""

    def __init__(
        self, model: Model, data: TaskData, settings: Training, device: torch.device, group: Group | None = None
    ) -> None:
        self._model, self._data, self._most, self._device = model, data, settings.asked, device
        self._group = group or Group()
        self._autocast, self._compiled = settings.autocast, settings.compiled

    def score(self, asking: Callable[[], None]) -> Score:
        """What it answers; ``asking`` is called before each pass: there may be many, and who waits hears of them."""

        def logits(tokens: Tensor) -> Tensor:
            asking()
            return self._group.of_all(self._logits, tokens)

        with self._as_asked():
            return self._data.score(logits, self._most, self._device)

    def usage(self, asking: Callable[[], None]) -> dict[str, float | None]:
        """What its layers read and choose for the same questions."""

        def batches() -> Iterator[Tensor]:
            for batch in self._data.questions(self._most):
                asking()
                yield batch.tokens[:, :-1].to(self._device)

        with self._as_asked():
            return usage(self._model, batches())

    def _logits(self, tokens: Tensor) -> Tensor:
        hidden = self._model.hidden(tokens.to(self._device))
        return self._model.logits(hidden).view(*tokens.shape, self._model.spec.vocab_size)

    def _eager(self) -> AbstractContextManager[Any]:
        """Not compiled: the shapes of questions are others, and few steps are of each."""
        return torch.compiler.set_stance("force_eager") if self._compiled else nullcontext()

    @contextmanager
    def _as_asked(self) -> Iterator[None]:
        self._model.eval()
        try:
            asking = self._group.asking
            shared = nullcontext() if asking is None else asking(self._model)
            with shared, torch.no_grad(), bf16_where(self._autocast, self._device), self._eager():
                yield
        finally:
            self._model.train()
