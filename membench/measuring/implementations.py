"""Ways to run the same layer: eager, compiled, replayed from a CUDA graph. Each arm runs at its best."""

import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from membench.layers.layer import Layer, Routing
from membench.layers.tables.host_table import HostTable

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
    """A forward replayed from a CUDA graph, its input copied into place.

    A replay reads and writes a KV cache where it lay, at the depth that it held.
    """
    if example.device.type != "cuda":
        raise ValueError("cuda_graph needs a CUDA device")
    if routing is not None:
        raise ValueError("cuda_graph serves only tokens routed by the layer itself")
    place = example.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(side):
        for _ in range(3):
            layer(place)
    torch.cuda.current_stream().wait_stream(side)
    if any(isinstance(table, HostTable) and table.way != "direct" for table in layer.tables()):
        raise ValueError("cuda_graph cannot hold what the host does: it gathers this table's rows in every call")
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        result = layer(place)

    def replay(x: Tensor, routing: Routing | None = None) -> Tensor:
        del routing
        place.copy_(x)
        graph.replay()
        return result

    return replay
