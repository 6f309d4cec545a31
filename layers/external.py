"""A layer of somebody else's behind the face of ours."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from membench.layers.kernels.stages import stage
from membench.layers.layer import Layer, Routing, Selection, Touched, torch_dtype
from membench.layers.short_name import long_name, suppress_missing, which_layers
from membench.layers.spec import Cost, ExternalSpec, MemoryNeed, Mode, Spec, StageCost, Step, has_backward
from membench.layers.spec.accounting import passes
from membench.layers.touched import touched_experts, touched_rows


class External(Layer):
    """Wraps the module that a factory returns; it routes by itself.

    All that the module must have is ``forward``: (B, d) to (B, d), of the dtype and on the device of x, a finite
    tensor of its own; x and the parameters stay as they are. What else it has is used.

    * ``reference(x)``: what it should compute of a few tokens x (T, d), in float64. While it is
      called, the module's parameters are float64 too. With it the layer is checked before it is timed.
    * ``select(x)``: its choice as a ``Selection``. ``reference(x, chosen)`` then gets the chosen
      indices too, so that rounding cannot decide which of two nearly equal scores wins.
    * ``scores(x)``: float64 scores, over its last dimension those of all that ``select`` chose among.
      With it the choice itself is checked.
    * ``counted_as``: the config of a layer of ours that does the same work; its cost is then exact.
      ``cost(tokens, mode)``: else, a ``Cost`` of the module's own.
    * ``table``: the tensor whose rows it reads at random addresses.
    * ``optimizers(name, learning_rate)``: the ``torch.optim`` optimizers that a training step with
      optimizer ``name`` takes, or a ValueError that says which it has.
    * ``notes``: lines that a reader of the measurements should know.

    Raises:
        ValueError: the factory is not found, or does not return a module.
    """

    FROM_OUTSIDE: ClassVar = True

    spec: ExternalSpec

    def __init__(
        self,
        spec: ExternalSpec,
        ranks: int = 1,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(spec, ranks)
        factory = load_factory(spec.factory)
        if generator is not None:
            torch.manual_seed(generator.initial_seed())  # a factory draws its weights from the global generator
        try:
            module = factory(model_dim=spec.model_dim, dtype=torch_dtype(spec.dtype), **spec.options)
        except ImportError as error:
            if not (hint := which_layers(error)):
                raise
            raise ValueError(f"{spec.factory} cannot be built: {error}{hint}") from error
        if not isinstance(module, nn.Module):
            raise ValueError(f"{spec.factory} returned {type(module).__name__}, not a torch.nn.Module")
        self.module, self.device = module.to(device=device, dtype=torch_dtype(spec.dtype)), torch.device(device)

    @classmethod
    def origin(cls, spec: ExternalSpec) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return factory_and_module(spec.factory)[1].__file__ or ""

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        if routing is not None:
            raise ValueError("a layer from outside routes by itself: use routing kind 'routed'")
        with stage("layer"):
            return self.module(x)

    def select(self, x: Tensor) -> Selection | None:
        select = self._offered("select")
        found = None if select is None else select(x)
        if found is not None and not isinstance(found, Selection):
            raise ValueError(f"{self.spec.factory}: select() returned {type(found).__name__}, not a Selection")
        return found

    def touched(self, x: Tensor, routing: Routing | None) -> Touched:
        choice = self.counted_as.choice_of_token
        if choice is None or self.select(x) is None:
            return Touched()
        if choice.of == "rows":
            return touched_rows(self, x, routing)
        return touched_experts(self, x, routing, choice.count)

    def cost(self, step: Step) -> tuple[Cost, str]:
        """Of a layer that does the work of one of ours, exact, with the parameters that it holds; else as counted."""
        if not self.counted_as.COUNTED:
            return counted_cost(self, step.tokens, step.mode, self.device)
        return with_own_parameters(self.counted_as.cost(step), self), "exact"

    @property
    def has_reference(self) -> bool:
        return self._offered("reference") is not None

    @property
    def counted_as(self) -> Spec:
        return getattr(self.module, "counted_as", self.spec)

    @property
    def random_rows(self) -> Tensor | None:
        table = getattr(self.module, "table", None)
        return None if table is None else table.detach()

    @property
    def notes(self) -> tuple[str, ...]:
        notes = getattr(self.module, "notes", ())
        return (notes,) if isinstance(notes, str) else tuple(map(str, notes))

    def own_optimizers(self, name: str, learning_rate: float) -> list[torch.optim.Optimizer] | None:
        optimizers = self._offered("optimizers")
        return None if optimizers is None else optimizers(name, learning_rate)

    def _offered(self, method: str) -> Callable[..., Any] | None:
        found = getattr(self.module, method, None)
        return found if callable(found) else None


def load_factory(name: str) -> Callable[..., Any]:
    """The callable that ``package.module:function`` names; ours where both we and the user have one of a name.

    Raises:
        ValueError: the module cannot be imported or has no such function.
    """
    return factory_and_module(name)[0]


def factory_and_module(name: str) -> tuple[Callable[..., Any], ModuleType]:
    """What ``load_factory`` returns, and the module that was imported for it; raises the same."""
    module_name, _, function = name.partition(":")
    ours = long_name(module_name)
    try:
        if ours is not None:
            with suppress(AttributeError), suppress_missing(ours):
                return _function_of(ours, function)
        return _function_of(module_name, function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be loaded: {error}{which_layers(error)}") from error


def _function_of(module_name: str, function: str) -> tuple[Callable[..., Any], ModuleType]:
    module = import_module(module_name)
    found: Any = module
    for part in function.split("."):
        found = getattr(found, part)
    return found, module


def with_own_parameters(cost: Cost, layer: External) -> Cost:
    """The cost of the layer of ours that does the same work, with the parameters that this one holds."""
    params = sum(p.numel() for p in layer.parameters())
    stored_bytes = sum(p.nbytes for p in layer.parameters())
    return replace(cost, params=params, rank_params=params, stored_bytes=stored_bytes)


def counted_cost(layer: External, tokens: int, mode: Mode, device: torch.device | str) -> tuple[Cost, str]:
    """The cost of a layer from outside that names no config of ours, and where it comes from.

    A ``cost(tokens, mode)`` of the module is taken at its word (source ``"cost()"``). Else
    params are counted, FLOPs come from torch's counter, which sees matrix products only, and
    bytes are the weights and both ends, each once (source ``"counted"``).
    """
    if callable(own := getattr(layer.module, "cost", None)):
        stated = own(tokens=tokens, mode=mode)
        if not isinstance(stated, Cost):
            raise ValueError(f"{layer.spec.factory}: cost() returned {type(stated).__name__}, not layers.spec.Cost")
        return stated, "cost()"
    params = sum(p.numel() for p in layer.parameters())
    weight_bytes = sum(p.nbytes for p in layer.parameters())
    x = torch.randn(tokens, layer.spec.model_dim, dtype=torch_dtype(layer.spec.dtype), device=device)
    x.requires_grad_(has_backward(mode))
    with FlopCounterMode(display=False) as counter:
        y = layer(x)
        forward_flops = float(counter.get_total_flops())
        if has_backward(mode):
            y.sum().backward()
    layer.zero_gradients()
    backward_flops = counter.get_total_flops() - forward_flops
    moved = weight_bytes + 2 * x.numel() * x.element_size()
    stages = passes(
        mode,
        StageCost("layer", forward_flops, forward_flops, moved),
        StageCost("layer", backward_flops, backward_flops, 2 * moved, backward=True),
    )
    memory = MemoryNeed(weight_bytes, weight_bytes if has_backward(mode) else 0, 0, 2 * x.numel() * x.element_size())
    return Cost(params, params, params, weight_bytes, tuple(stages), memory), "counted"
