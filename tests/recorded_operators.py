"""Which of membench's operators run, seen where torch dispatches them."""

from contextlib import contextmanager

from torch.utils._python_dispatch import TorchDispatchMode


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        namespace, _, name = func.name().partition("::")
        if namespace == "membench":
            self.calls.append((name, args))
        return func(*args, **(kwargs or {}))


@contextmanager
def recorded():
    """Inside, the names and arguments of membench's operators, in the order they run."""
    with _Recorder() as recorder:
        yield recorder.calls
