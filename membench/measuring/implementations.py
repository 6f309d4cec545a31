"""Ways to run the same layer: eager, compiled, replayed from a CUDA graph. Each arm runs at its best."""

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
        return torch.compile(layer)
    if name == "cuda_graph":
        return _graphed(layer, example, routing)
    raise ValueError(f"unknown implementation {name!r}: eager, compiled or cuda_graph")


def _graphed(layer: Layer, example: Tensor, routing: Routing | None) -> Call:
    """A forward replayed from a CUDA graph, its input copied into place."""
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
