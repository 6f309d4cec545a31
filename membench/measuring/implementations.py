"""Ways to run the same layer: eager, compiled, replayed from a CUDA graph. Each arm runs at its best."""

import sys
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from membench.layers.layer import Layer, Routing
from membench.layers.tables.host_table import HostTable
from membench.measuring.captured import Places, capture

_DEVICE = "cuda"
Call = Callable[[Tensor, Routing | None], Tensor]


def implementation(name: str, layer: Layer, example: Tensor, routing: Routing | None) -> Call:
    """The layer as a function.

    Raises:
        ValueError: this implementation cannot run this layer (the message says why).
    """
    if name == "eager":
        return layer
    if name == "compiled":
        return _compiled(layer)
    if name == "cuda_graph":
        return _graphed(layer, example, routing)
    raise ValueError(f"unknown implementation {name!r}: eager, compiled or cuda_graph")


def available_on(device: str, names: Sequence[str]) -> list[str]:
    """Those that a device can have at all."""
    return [name for name in names if name != "cuda_graph" or device == _DEVICE]


def forget_compiled() -> None:
    """What is compiled next is for its own shapes; beside what others left it would be for shapes of any size."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def graph_breaks() -> int:
    """How often a compiler left code to Python, in this process so far."""
    from torch._dynamo.utils import counters

    return sum(counters["graph_break"].values())


def _compiled(layer: Layer) -> Call:
    """The whole layer, a model's blocks together: compiled one by one, each checks its guards in every step.

    What a KV cache holds is part of what is compiled, so another depth is compiled anew.
    """
    # angles and masks are kept by their arguments, on which alone they depend
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
    return torch.compile(layer)


def _graphed(layer: Layer, example: Tensor, routing: Routing | None) -> Call:
    """A forward replayed from a CUDA graph, its input and routing copied into place.

    A replay reads and writes a KV cache where it lay, at the depth that it held.
    """
    check_capturable(layer, example)
    places = Places(example, routing)
    answers: list[Tensor] = []

    @torch.no_grad()
    def call() -> None:
        answers[:] = [layer(places.x, places.routing)]

    call()  # the first one tries how to read a table in host memory
    if any(isinstance(table, HostTable) and table.way != "direct" for table in layer.tables()):
        raise ValueError("cuda_graph cannot hold what the host does: it gathers this table's rows in every call")
    again = capture(call)
    (result,) = answers

    def replay(x: Tensor, routing: Routing | None = None) -> Tensor:
        places.take(x, routing)
        again()
        return result

    return replay


def check_capturable(layer: Layer, example: Tensor, *, backward: bool = False) -> None:
    """Whether a step can be a CUDA graph, as far as can be said before it is tried.

    Raises:
        ValueError: it cannot (the message says why).
    """
    if example.device.type != _DEVICE:
        raise ValueError("cuda_graph needs a CUDA device")
    if backward and any(isinstance(table, HostTable) for table in layer.tables()):
        raise ValueError("cuda_graph cannot hold what the host does: it keeps the gradient of this table's rows")
