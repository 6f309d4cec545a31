"""The face of a layer: what membench, or anyone, may know of one.

Letters: B tokens of this rank, P ranks, d model dim, H heads, k rows a head reads,
K experts a token uses, E experts, D value dim.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from membench.layers.kernels.precision import product_dtype
from membench.layers.parallel.cut_tensors import is_cut, own_part
from membench.layers.parallel.exchange import Exchange
from membench.layers.parallel.remote import RemoteAssignments, RemoteLookups
from membench.layers.parallel.simulated import exchange_of
from membench.layers.routing import StatedRouting
from membench.layers.spec import Cost, Spec, Step, TokenSpec
from membench.layers.tables.value_table import ValueTable


@dataclass(frozen=True, slots=True)
class Selection:
    """What a layer chose: rows (B, H, k), experts (B, K), or under expert choice tokens (E, C).

    ``weights`` has the shape of ``indices``, fp32, and carries the gradient of the scores.
    ``auxiliary_loss`` is the balancing loss of a router, or None.
    """

    indices: Tensor
    weights: Tensor
    auxiliary_loss: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Routing:
    """How the tokens of one call are routed, where it is not by the layer's choice alone.

    ``selected`` replaces the chosen indices; the weights stay those of the layer's own
    choice, so all of its arithmetic is still done. An operator, which chooses nothing, is given
    their ``weights`` too, of the same shape, fp32.
    """

    selected: Tensor | None = None
    remote: RemoteLookups | RemoteAssignments | None = None
    weights: Tensor | None = None

    def with_leaf_weights(self) -> "Routing":
        """The same, its weights (where there are any) a new leaf that a backward pass gives a gradient."""
        return self if self.weights is None else replace(self, weights=self.weights.detach().requires_grad_(True))


@dataclass(frozen=True, slots=True)
class Touched:
    """What one input reads and computes on this rank; None where it has none of a kind.

    rows (L,): of tables, one for each lookup, repeats included. expert_load (experts,) int64: the (token, expert)
    pairs of each expert of this rank. ``dropped_tokens`` are those that no expert took.
    """

    rows: Tensor | None = None
    expert_load: Tensor | None = None
    dropped_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A part of a parameter: the ``name`` and ``shape`` that a layer has it by which is on one rank, and from where."""

    name: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]


class Layer(nn.Module):
    """Maps (B, d) to (B, d), for no tokens too.

    A kind must define ``forward``, and what else of this face is not as here: what it is given, what that touches and
    costs, what is special about it.

    In what dtype: as torch's own modules would. Under autocast ``nn.Linear``'s is the autocast dtype, a router's and
    a softmax's fp32, a table's that of its rows; what is summed of several has the widest.
    A table's values get no ``.grad``: after a backward each of ``tables()`` holds a
    ``RowGradient`` of the touched rows. All other parameters use autograd as usual.
    ``auxiliary_loss`` is that of the last forward in training mode, to be added to the loss.
    ``SHARES_TABLE``: whether it can be given a table that other layers read too (``table=``).
    ``FROM_OUTSIDE``: whether it is somebody else's, that may keep no promise of ours.
    ``STEPS_IN_TURN``: whether ``step`` gives x to a step of ``kernels.in_turn`` and to nothing else, so that x may wait
    for a step before it. A kind that overrides ``step`` with torch's calls says False.

    ``ranks`` that a kind is built with are P, of which one rank's share is built and the others are stood in for; or
    the ``Exchange`` between real ones.
    """

    SHARES_TABLE: ClassVar[bool] = False
    FROM_OUTSIDE: ClassVar[bool] = False
    STEPS_IN_TURN: ClassVar[bool] = False

    def __init__(self, spec: Spec, ranks: int | Exchange = 1) -> None:
        super().__init__()
        self.exchange = exchange_of(ranks)
        if error := self.exchange.split_error(spec):
            raise ValueError(error)
        self.spec = spec
        self.auxiliary_loss: Tensor | None = None

    @property
    def ranks(self) -> int:
        """P, the ranks that share this layer."""
        return self.exchange.ranks

    @classmethod
    def origin(cls, spec: Spec) -> str:
        """The file that what a config names is imported from."""
        del spec
        return import_module("membench.layers").__file__ or ""

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        """y (B, d) of x (B, d)."""
        raise TypeError(f"{type(self).__name__} must define forward()")

    def output_like(self, x: Tensor) -> Tensor:
        """An empty tensor of the shape, dtype and memory layout of y; for an operator they are not those of x."""
        return torch.empty_like(x)

    def followed_by(self, copies: Sequence[Self]) -> Callable[[Tensor, Routing | None], Tensor] | None:
        """y (B, d) of x (B, d) through this and its copies, each of which reads what the one before gives, as a model's
        blocks do; None where that is no more than calling one after the other.
        """
        del copies
        return None

    def make_ready(self, step: Step, seed: int = 0) -> None:
        """Make what a step of this kind needs besides its input, drawn from ``seed``; most layers need nothing."""
        del step, seed

    def context(self) -> tuple[Tensor, ...]:
        """What a call reads of earlier tokens and must leave as it is: keys and values before the new tokens."""
        return ()

    @property
    def kv_cache_bytes(self) -> int:
        """What keys and values of earlier tokens take."""
        return 0

    def select(self, x: Tensor) -> Selection | None:
        """The layer's own choice for x (B, d); None where nothing is chosen."""
        del x
        return None

    def choice_norms(self, x: Tensor) -> dict[str, Tensor]:
        """How long the vectors are by which it chooses for x (B, d), as scalar means; instability shows there first."""
        del x
        return {}

    def draw_input(
        self, tokens: int, stated: StatedRouting, generator: torch.Generator
    ) -> tuple[Tensor, Routing | None]:
        """A random x (B, d) on the generator's device, and how it is routed; None: by the layer alone."""
        del stated
        return self.draw_tokens(tokens, generator), None

    def drawn_by(self) -> tuple[dict[str, Any], list[Tensor]]:
        """All that ``draw_input`` depends on besides its arguments: settings as JSON, and tensors.

        Layers that agree in both draw the same inputs, and those touch the same. A kind may leave out what the
        routing of tokens does not depend on.
        """
        of_tables = {id(part) for table in self.tables() for part in table.parameters()}
        own = [p.detach() for p in self.parameters() if id(p) not in of_tables]
        return self.spec.model_dump(mode="json"), [*own, *self.buffers()]

    def draw_tokens(self, tokens: int, generator: torch.Generator) -> Tensor:
        """(B, d) random tokens of unit variance, of the layer's dtype."""
        assert isinstance(self.spec, TokenSpec)
        shape = (tokens, self.spec.model_dim)
        x = torch.randn(shape, dtype=torch.float32, device=generator.device, generator=generator)
        return x.to(torch_dtype(self.spec.dtype))

    def touched(self, x: Tensor, routing: Routing | None) -> Touched:
        """What an input touches on this rank, where the layer tells."""
        del x, routing
        return Touched()

    def cost(self, step: Step) -> tuple[Cost, str]:
        """What a step costs, and where that is from: ``exact`` by the formulas of its kind."""
        return self.spec.cost(step), "exact"

    @property
    def swiglu(self) -> tuple[Tensor, Tensor] | None:
        """(2f, d), gate first, and (d, f) of a layer that is this SwiGLU and nothing else; None for all others."""
        return None

    def step(self, x: Tensor, routing: Routing | None, block: tuple[Tensor, float] | None) -> Tensor | None:
        """y (B, d) of few tokens x (B, d) by one call; None where it takes several, as ``forward`` makes them.

        Args:
            block: (d,) scale and eps of a block's norm: then y is x + layer(norm(x)).
        """
        del x, routing, block
        return None

    @property
    def has_reference(self) -> bool:
        """Whether it can be checked."""
        return True

    @property
    def path(self) -> str | None:
        """The path that an operator takes, ``auto`` resolved; None for what has one way only."""
        return None

    def tables(self) -> tuple[ValueTable, ...]:
        """The value tables this layer reads, with their row gradients."""
        return ()

    @property
    def counted_as(self) -> Spec:
        """The config whose formulas count this layer's work: its own, but for a layer from outside that names one."""
        return self.spec

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its measurements should know, in a line each."""
        return ()

    def own_optimizers(self, name: str, learning_rate: float) -> list[torch.optim.Optimizer] | None:
        """What optimizer ``name`` means for a layer that brings its own, over all parameters; None for all others."""
        del name, learning_rate
        return None

    @property
    def random_rows(self) -> Tensor | None:
        """The tensor whose rows it reads at random addresses; the ceiling of random rows is measured on it."""
        return next((table.weight.detach() for table in self.tables()), None)

    @property
    def unavailable(self) -> str | None:
        """Why this device cannot compute it in the way its config asks for, or None."""
        return None

    def on_path(self) -> AbstractContextManager[None]:
        """Inside, forward and backward passes are computed in the way its config asks for."""
        return nullcontext()

    def balance(self, *, frozen: bool = False) -> None:
        """What a router changes after a training step besides its weights; ``frozen``: changes nothing."""
        del frozen

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a file gets: a loss belongs to the step that it was computed in, as ``.grad`` does."""
        return {**self.__dict__, "auxiliary_loss": None}

    def held(self) -> dict[nn.Parameter, Held]:
        """Of this layer's own parameters that ranks have parts of, where this rank's part lies; none of inner layers,
        and none that torch has cut under the name of the whole."""
        return {}

    def shards(self) -> set[nn.Parameter]:
        """The parameters, besides tables, of which each rank has its own."""
        return {
            p for module in self.modules() if module is not self and isinstance(module, Layer) for p in module.shards()
        }

    def sum_gradients(self) -> None:
        """Adds up the gradients of all ranks and replicas, so that the step is that of the sum of their losses.

        All ranks call it after a backward pass, which must leave row gradients where there are replicas.
        """
        of_tables = {table.weight for table in self.tables()}
        trained = [p for p in self.parameters() if p.requires_grad and p not in of_tables]
        for parameter in trained:
            if parameter.grad is None:  # of a rank without tokens, where others have one
                parameter.grad = torch.zeros_like(parameter)
        shards = self.shards()
        # what torch has cut and is no shard of ours, it has also added up
        whole = [p.grad for p in trained if p not in shards and not is_cut(p) and p.grad is not None]
        own = [own_part(p.grad) for p in trained if p in shards and p.grad is not None]
        self.exchange.sum_gradients_(whole, own, tuple(dict.fromkeys(self.tables())))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, of parameters and of table rows.

        A module around this layer reaches its parameters alone: ``LayerOptimizer.zero_grad`` forgets all.
        """
        super().zero_grad(set_to_none)
        for table in self.tables():
            table.gradient = None

    def zero_gradients(self) -> None:
        """Forget all gradients, and the last auxiliary loss with its graph."""
        self.zero_grad()
        self.auxiliary_loss = None

    def check_tokens(self, x: Tensor, weight: Tensor) -> None:
        """Whether x is (B, d), of the dtype of the ``weight`` (…, d) that it meets first, or made so by autocast.

        Raises:
            ValueError: it is not.
        """
        d = weight.shape[-1]
        if x.ndim != 2 or x.shape[1] != d:
            raise ValueError(f"x should be (tokens, {d}), not {tuple(x.shape)}: flatten what is before the last")
        if product_dtype(x) != product_dtype(weight):
            raise ValueError(f"x is {x.dtype}, the layer {weight.dtype}")


def has_gradient(x: Tensor) -> bool:
    """Whether a backward pass gives an input a gradient: tokens' numbers in a vocabulary have none."""
    return x.is_floating_point()


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a spec's dtype name."""
    return getattr(torch, name)
