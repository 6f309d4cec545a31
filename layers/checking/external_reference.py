"""The float64 reference that a layer from outside brings, on a few of its tokens.

Letters: B tokens, T of them sampled.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from membench.layers.checking.sampled_reference import SampledReference, shortfall
from membench.layers.external import External


class _Method(nn.Module):
    """One method of a module as a module, with its parameters under the names that they have in ``External``."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, *arguments: Tensor) -> Tensor:
        return getattr(self.module, self.name)(*arguments)


class ExternalReference(SampledReference):
    """Every parameter is a leaf; those that the reference does not reach must have no gradient."""

    layer: External

    def leaves(self) -> dict[str, Tensor]:
        self._reached: set[str] = set()
        found = super().leaves()
        for name, leaf in found.items():
            leaf.register_hook(lambda gradient, name=name: self._reached.add(name))
        return found

    def output(self) -> Tensor:
        y = self._call("reference", self.x, *([] if self.selection is None else [self.chosen]))
        if not isinstance(y, Tensor) or y.shape != self.x.shape:  # else it might be compared as if repeated
            found = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            wanted = tuple(self.x.shape)
            raise ValueError(f"{self.layer.spec.factory}: reference() returned {found}, not a tensor {wanted}")
        return y

    def _call(self, name: str, *arguments: Any) -> Tensor:
        buffers = {key: b.double() for key, b in self.layer.named_buffers() if b.is_floating_point()}
        return functional_call(_Method(self.layer.module, name), {**buffers, **self.w}, arguments)

    def _gradient(self, name: str) -> Tensor:
        parameter = self.layer.get_parameter(name)
        if parameter.grad is None:
            return torch.zeros_like(parameter)
        return parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad

    def _strays(self) -> list[str]:
        return [name for name in self.w if name not in self._reached and self._gradient(name).count_nonzero()]

    @torch.no_grad()
    def selection_shortfall(self, x: Tensor) -> float | None:
        del x
        if self.selection is None or not hasattr(self.layer.module, "scores"):
            return None
        scores, chosen = self._call("scores", self.x), self.chosen
        best = scores.topk(chosen.shape[-1], dim=-1).values[..., -1:]
        return shortfall(chosen, scores.gather(-1, chosen), best)
