"""What the public layers have in common: sizes, a reference and a cost in our layers' terms, known faults.

Letters: B tokens, T of them checked, d model dim, H heads, k rows a head, N rows, E experts, K experts a token.
"""

from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from membench.layers.checking import reference
from membench.layers.layer import Selection
from membench.layers.spec import MemorySpec, MoESpec, PeerSpec, Spec

SpecType = TypeVar("SpecType", bound=Spec)
Sizes = MemorySpec | PeerSpec | MoESpec


class PublicLayer(nn.Module):
    """A public layer with all that ``External`` can use of a module.

    By default it claims to compute what the layer of ours does that it is ``counted_as``:
    subclasses say under which of their parameters that layer's weights are.
    """

    def __init__(self, counted_as: Sizes, notes: tuple[str, ...]) -> None:
        super().__init__()
        self.counted_as, self.notes = counted_as, notes

    def our_weights(self) -> dict[str, Tensor]:
        """Its parameters, or views of them, under the names and in the layouts of our layer."""
        raise TypeError(f"{type(self).__name__} must define our_weights()")

    def select(self, x: Tensor) -> Selection:
        """What it chose for x (B, d): rows (B, H, k) or experts (B, K), with their weights."""
        raise TypeError(f"{type(self).__name__} must define select()")

    def reference(self, x: Tensor, chosen: Tensor) -> Tensor:
        """y (T, d) by our definition, for the chosen rows (T, H, k) or experts (T, K)."""
        spec, weights = self.counted_as, self.our_weights()
        match spec:
            case MemorySpec():
                return reference.memory(spec, weights, x, chosen, chosen)
            case PeerSpec():
                return reference.peer(spec, weights, x, chosen, chosen)
            case MoESpec():
                return reference.moe_token_choice(spec, weights, x, chosen, chosen)

    def scores(self, x: Tensor) -> Tensor:
        """(T, H, N) of all rows, or (T, E) of all experts."""
        if isinstance(self.counted_as, MoESpec):
            return reference.router_scores(self.counted_as, self.our_weights(), x)
        first, second = self.half_scores(x)
        return (first[..., :, None] + second[..., None, :]).flatten(-2)

    def half_scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of both halves' sub-keys, each (T, H, n)."""
        assert not isinstance(self.counted_as, MoESpec)
        return reference.half_scores(self.counted_as, self.our_weights(), x)

    def optimizers(self, name: str, learning_rate: float) -> list[torch.optim.Optimizer]:
        """Of dense gradients only, as a user of torch has them.

        Raises:
            ValueError: a row optimizer, which needs the gradient of touched rows.
        """
        if name == "adamw":
            return [torch.optim.AdamW(self.parameters(), lr=learning_rate, fused=True)]
        if name == "sgd":
            return [torch.optim.SGD(self.parameters(), lr=learning_rate, fused=True)]
        raise ValueError(f"its gradients are dense: optimizer adamw or sgd, not {name}")


def installed(package: str, module: str) -> tuple[ModuleType, str]:
    """A module of a public package, and the package with its version as notes name it.

    Raises:
        ModuleNotFoundError: it, or something it needs, is not installed; the message says how to get it.
    """
    try:
        return import_module(module), f"{package} {version(package)}"
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{package} cannot be imported ({error}): pip install 'membench[peers]'") from error


def sizes(kind: type[SpecType], model_dim: int, dtype: torch.dtype, **dimensions: Any) -> SpecType:
    """The config of the layer of ours of the same sizes.

    Raises:
        ValueError: a dimension makes no sense; one line that names it.
    """
    try:
        return kind.model_validate({"model_dim": model_dim, "dtype": str(dtype).removeprefix("torch."), **dimensions})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        problem = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {problem}" if where else problem) from None
