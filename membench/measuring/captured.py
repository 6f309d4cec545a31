"""A call captured as a CUDA graph: all that it launches, launched again at once by the host."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from membench.layers.checking.answer import copied, tensors_of
from membench.layers.layer import Routing

_WARM_UP = 3  # calls, in which kernels are compiled, and optimizers and libraries make what they keep
_WAITED = "synchroniz"  # in what torch says of it


def capture(call: Callable[[], object]) -> Callable[[], None]:
    """Captures a call on the current CUDA device; what it made lies where each replay writes it again.

    The call runs a few times before, on a stream of its own, and once so that whatever the host waits for raises.

    Returns:
        the replay.

    Raises:
        ValueError: the host waits for the device in this call.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), warnings.catch_warnings():
        # torch's optimizers, of a step that is not captured yet
        warnings.filterwarnings("ignore", message=".*capturable=True")
        for _ in range(_WARM_UP):
            call()
        with _waiting_raises():
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


@contextmanager
def _waiting_raises() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        if _WAITED in str(error):
            raise ValueError("cuda_graph cannot hold a step in which the host waits for the device") from error
        raise
    finally:
        torch.cuda.set_sync_debug_mode(before)


class Places:
    """Where a captured call reads its input: x and its routing, over which the next input is copied."""

    def __init__(self, x: torch.Tensor, routing: Routing | None) -> None:
        self.x, self.routing = x.detach().clone(), copied(routing)
        self._parts = tensors_of(self.routing)

    @torch.no_grad()
    def take(self, x: torch.Tensor, routing: Routing | None) -> None:
        """Copies an input here.

        Raises:
            ValueError: it has other shapes than what was captured.
        """
        given = tensors_of(routing)
        shapes = {name: tuple(part.shape) for name, part in {"x": x, **given}.items()}
        here = {name: tuple(part.shape) for name, part in {"x": self.x, **self._parts}.items()}
        if shapes != here:
            raise ValueError(f"what was captured takes {here}, not {shapes}")
        self.x.copy_(x)
        for name, part in self._parts.items():
            part.copy_(given[name])
