"""What must hold of any layer's answer before it is timed, whether a reference judges its values or not.

It has the shape, dtype and device that the layer's face states, every number of it and of its gradients is
finite, it lies in memory of its own, and a call leaves its inputs and the parameters as they were.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from membench.layers.checking.digest import Digest
from membench.layers.layer import Layer, Routing, has_gradient
from membench.layers.parallel.cut_tensors import own_part

Call = Callable[[Tensor, Routing | None], Tensor]
Given = tuple[Tensor, Routing | None]
_COMPARED_ELEMENTS = 2**16  # of a parameter, evenly spread: a table's every row would be read twice


def find_fault(
    layer: Layer,
    x: Tensor,
    routing: Routing | None = None,
    *,
    call: Call,
    upstream: Tensor | None,
    other: Given | None,
    digest: Digest | None = None,
) -> str | None:
    """What is wrong with one call of a layer or an operator, in a line; None where nothing is.

    Gradients left on the layer are dropped before and after.

    Args:
        layer: what ``call`` runs.
        x: (B, d), or an operator's own.
        routing: as ``call`` takes it.
        call: the layer itself, or another way to run it (compiled, say).
        upstream: of y's shape, sent back through the call; None: there is no backward pass.
        other: another input, to see that its answer does not overwrite the first; None: that is not asked.
        digest: gets the answer, and with ``upstream`` every gradient.
    """
    layer.zero_gradients()
    try:
        return next(_faults(layer, (x, routing), call, upstream, other, digest), None)
    finally:
        layer.zero_gradients()


def _faults(
    layer: Layer, given: Given, call: Call, upstream: Tensor | None, other: Given | None, digest: Digest | None
) -> Iterator[str]:
    """Every fault, the first that can be seen first; asked for one, it does no more than that takes."""
    backward = upstream is not None
    before, like = _Before(layer, given), layer.output_like(given[0])
    sent = None if upstream is None else upstream.clone()
    x, routing = given[0].clone().requires_grad_(backward and has_gradient(given[0])), copied(given[1])
    if backward and routing is not None:
        routing = routing.with_leaf_weights()
    poisoned = _unwritten_is_nan() if call is layer and not backward else nullcontext()
    with torch.set_grad_enabled(backward), layer.on_path(), poisoned:
        y = call(x, routing)
    yield from output_faults(y, like, x, backward=backward)
    yield from before.changes(x, routing)
    if digest:
        digest.add_answer(layer, y)
    loss = layer.auxiliary_loss
    if other is not None:
        kept = y.detach().clone()
        with torch.no_grad(), layer.on_path():
            call(*other)
        if not torch.equal(kept, y.detach()):
            yield "y is overwritten by the next call: it should be memory of its own"
    if sent is None:
        return
    if loss is not None and not _is_finite(loss):
        yield "the auxiliary loss is not finite"
    with layer.on_path():
        if loss is None:
            y.backward(sent)
        else:
            torch.autograd.backward([y, loss], [sent, torch.ones_like(loss)])
        if layer.exchange.together:
            layer.sum_gradients()
    yield from _gradient_faults(layer, x, routing)
    if upstream is not None and not _same(sent, upstream):
        yield "the backward pass changes the gradient that it is given"
    yield from before.changes(x, routing)
    if digest:
        digest.add_gradients(layer, x, routing)


def output_faults(y: Any, like: Tensor, x: Tensor, *, backward: bool) -> Iterator[str]:
    """What is wrong with an answer.

    Args:
        y: whatever the call of a layer returned.
        like: of the shape, dtype and device that y should have.
        x: what the layer was given.
        backward: whether gradients will be sent back from y.
    """
    if not isinstance(y, Tensor):
        yield f"forward returned {type(y).__name__}, not a tensor {_shape(like)}"
        return
    if y.layout != torch.strided:
        yield f"y is {y.layout}, not a dense tensor"
        return
    for name, found, wanted in (
        ("shape", _shape(y), _shape(like)),
        ("dtype", y.dtype, like.dtype),
        ("device", y.device, like.device),
    ):
        if found != wanted:
            yield f"y has {name} {found}, not {wanted}"
            return
    if y.numel() and y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        yield "y lies in the memory of x: an answer should be memory of its own, or nothing was computed"
    if not _is_finite(y):
        yield f"y holds {_not_finite(y)}"
    if backward and not y.requires_grad:
        yield "y has no graph: no gradient can be sent back (does forward detach it, or run under no_grad?)"


def parameter_faults(layer: Layer) -> Iterator[str]:
    """Parameters that hold no numbers any more."""
    for name, parameter in layer.named_parameters():
        yield from _if_not_finite(f"parameter {name}", parameter.detach())


def _gradient_faults(layer: Layer, x: Tensor, routing: Routing | None) -> Iterator[str]:
    if not has_gradient(x):
        pass
    elif x.grad is None:
        yield "no gradient reaches x: y does not depend on it in a way that autograd sees"
    else:
        yield from _if_not_finite("the gradient of x", x.grad)
    weights = routing and routing.weights
    if weights is not None and weights.grad is not None:
        yield from _if_not_finite("the gradient of the routing weights", weights.grad)
    trained = [(name, p) for name, p in layer.named_parameters() if p.requires_grad]
    for name, parameter in trained:
        if parameter.grad is not None:
            yield from _if_not_finite(f"the gradient of {name}", parameter.grad)
    gradients = [table.gradient for table in layer.tables()]
    for number, gradient in enumerate(gradients):
        if gradient is not None:
            yield from _if_not_finite(f"the gradient of table {number}'s rows", gradient.values)
    reached = any(p.grad is not None for _, p in trained) or any(gradient is not None for gradient in gradients)
    if not reached and (trained or gradients):
        yield "no gradient reaches any parameter: y does not depend on them in a way that autograd sees"


class _Before:
    """What a call is given and the parameters, as they were before it."""

    @torch.no_grad()
    def __init__(self, layer: Layer, given: Given) -> None:
        self.layer, self.x, self.routing = layer, given[0], given[1]
        known = {name: p for name, p in layer.named_parameters() if not is_lazy(p)}
        self.context = [_some(part).clone() for part in layer.context()]
        self.parameters = {name: (p, _version(p), _some(p).clone()) for name, p in known.items()}

    @torch.no_grad()
    def changes(self, x: Tensor, routing: Routing | None) -> Iterator[str]:
        """What is another thing now; ``x`` and ``routing`` are copies of what was given, which the call has had."""
        if not _same(x, self.x):
            yield "the call changes x"
        mine, theirs = tensors_of(self.routing), tensors_of(routing)
        for name, tensor in mine.items():
            if not _same(tensor, theirs[name]):
                yield f"the call changes the routing ({name})"
        if not all(_same(_some(part), known) for part, known in zip(self.layer.context(), self.context, strict=True)):
            yield "the call changes keys or values of earlier tokens"
        now = dict(self.layer.named_parameters())
        for name, (parameter, version, values) in self.parameters.items():
            found = now.get(name)
            if found is not parameter or _version(parameter) != version or not _same(_some(parameter), values):
                yield f"the call changes parameter {name}"


def _version(tensor: Tensor) -> int:
    """How often autograd saw it written in place."""
    return 0 if tensor.is_inference() else tensor._version


def _some(parameter: Tensor) -> Tensor:
    """Some of its elements, which a write past autograd (``.data``) most likely changes too."""
    parameter = own_part(parameter.detach())
    values, every = parameter, max(1, parameter.numel() // _COMPARED_ELEMENTS)
    if values.is_contiguous():
        return values.view(-1)[::every]
    places = torch.arange(0, values.numel(), every, device=values.device)  # a reshape would copy all of it
    return values[torch.unravel_index(places, values.shape)]


def _same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, so that NaN is equal to itself."""
    same_form = one.shape == other.shape and one.dtype == other.dtype
    return same_form and torch.equal(_bits(one), _bits(other))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


def tensors_of(routing: Any, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a routing by their dotted names."""
    found: dict[str, Tensor] = {}
    for field in fields(routing) if is_dataclass(routing) else ():
        value, name = getattr(routing, field.name), f"{prefix}{field.name}"
        found |= {name: value} if isinstance(value, Tensor) else tensors_of(value, f"{name}.")
    return found


def copied(routing: Any) -> Any:
    """The same with tensors of its own."""
    if isinstance(routing, Tensor):
        return routing.clone()
    if not is_dataclass(routing) or isinstance(routing, type):
        return routing
    return replace(routing, **{field.name: copied(getattr(routing, field.name)) for field in fields(routing)})


def _is_finite(tensor: Tensor) -> bool:
    """Whether every element is; without a mask as large as the tensor."""
    values = own_part(tensor.detach())
    values = values.coalesce().values() if values.is_sparse else values
    if not values.numel() or not values.is_floating_point():
        return True
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(values))  # a NaN is both extremes


def _if_not_finite(name: str, tensor: Tensor) -> Iterator[str]:
    if not _is_finite(tensor):
        values = tensor.coalesce().values() if tensor.is_sparse else tensor
        yield f"{name} holds {_not_finite(values)}"


def _not_finite(tensor: Tensor) -> str:
    """``3 NaN of 512 numbers``."""
    nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    counts = [f"{count} {what}" for count, what in ((nan, "NaN"), (infinite, "infinite")) if count]
    return f"{' and '.join(counts)} of {tensor.numel()} numbers"


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


@contextmanager
def _unwritten_is_nan() -> Iterator[None]:
    """Inside, memory that nobody has written (``torch.empty``) reads as NaN, so that an answer out of it is seen.

    Torch does so with its deterministic algorithms. Its public switch would import the compiler, more than a second.
    """
    asked, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch._C._set_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._C._set_deterministic_algorithms(asked, warn_only=warns)
