"""One update: forward and backward passes over a batch, clipping, and the optimizer's step.

Letters: S sequences, T tokens of each that a loss can be of.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from membench.layers.models.model import Model
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.learning.settings import Training
from membench.training.group import Group
from membench.training.task import Batch


class Update:
    """Trains a model on one batch after the other.

    The loss is the mean over all scored tokens of the batch, however many parts it is computed in, and the balancing
    losses of its routers, averaged over parts and replicas. Where gradients are neither clipped nor summed over parts,
    the backward pass itself updates the rows that it reads.
    """

    def __init__(
        self,
        model: Model,
        optimizer: LayerOptimizer,
        settings: Training,
        device: torch.device,
        group: Group | None = None,
    ) -> None:
        self.model, self.optimizer, self.device = model, optimizer, device
        self._parts, self._clip_norm = settings.accumulate, settings.clip_norm
        self._autocast = settings.autocast
        self._group = group or Group()
        self._balanced_in = self._parts * self._group.replicas
        if settings.clip_norm is not None or not self._group.fuses:
            self._rows: Callable[[], AbstractContextManager[None]] = nullcontext
        else:
            self._rows = optimizer.fused if settings.accumulate == 1 else optimizer.queued

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The loss without balancing, and the gradients' norm before clipping (None: not clipped). Scalars, there.

        Does not wait for a GPU.
        """
        tokens, weights = self._placed(batch)
        self.optimizer.zero_grad()
        with self._rows():
            if self._parts == 1:
                loss = self._backward(tokens, weights)
            else:
                parts = zip(tokens.chunk(self._parts), weights.chunk(self._parts), strict=True)
                loss = torch.stack([self._backward(*part) for part in parts]).sum()
        self._group.sum_gradients(self.model)
        norm = None if self._clip_norm is None else self.optimizer.clip_gradients_(self._clip_norm)
        self.optimizer.step()
        return self._group.total(loss), norm

    def _placed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """This process's, on the device: tokens (S, T + 1), and what each loss (S, T) counts.

        That is 1 / all that are scored, those of other processes too, or 0.
        """
        weights = batch.scored / max(1, int(batch.scored.sum()))
        tokens, weights = self._group.slice(batch.tokens), self._group.slice(weights)
        if self.device.type == "cpu":
            return tokens, weights
        tokens, weights = (each.pin_memory().to(self.device, non_blocking=True) for each in (tokens, weights))
        return tokens, weights

    def _backward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        with bf16_where(self._autocast, self.device):
            losses = self.model(tokens)
        loss = torch.dot(losses.flatten(), weights.flatten())
        balancing = self.model.auxiliary_loss
        (loss if balancing is None else loss + balancing / self._balanced_in).backward()
        return loss.detach()


def bf16_where(asked: bool, device: torch.device) -> AbstractContextManager[object]:
    """Inside, products are of bf16 where it is asked for."""
    return torch.autocast(device.type, torch.bfloat16) if asked else nullcontext()
