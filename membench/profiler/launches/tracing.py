"""What a layer's step would launch on a GPU that need not be there, in order.

Tensors have no values, and take the ways of a GPU: all of the layers' own code runs as it would there, and asks torch
for the same. Kernels are told of in place of being launched. What the host would have to wait for has no value, and
raises.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from membench.layers.factory import MODULES, AnySpec
from membench.layers.kernels import paths
from membench.layers.kernels.bodies import body_of
from membench.layers.kernels.triton import launch as triton_launch
from membench.layers.kernels.triton import row_passes
from membench.layers.layer import Layer
from membench.layers.spec.expectation import expected_unique
from membench.profiler.follower import StageFollower
from membench.profiler.launches import kernel_work, torch_work
from membench.profiler.launches.work import Work
from membench.profiler.machine_code.code_key import CodeKey, code_key
from membench.results.profile import REST, StageKey

_HOPPER, _MULTIPROCESSORS = (9, 0), 132  # of an H100 SXM5 and an H200
_NO_VALUES = ("meta tensor", "register_meta")  # what torch says where it would need them
# what only sets memory aside, or asks what a tensor is
_FREE = frozenset(
    [
        "detach_",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "prim_device",
        "promote_types",
        "resize_",
        "set_",
    ]
)


# what changes the tensors that it is given, returns nothing, and has no version for tensors without values
_WITHOUT_META = frozenset(["_fused_sgd_"])


@dataclass(frozen=True, slots=True)
class Launched:
    """One launch: a kernel of this project by its name, or an operator of torch by its own.

    ``stage`` and ``backward`` are as ``membench profile`` tells a step's stages apart. ``code`` names the machine code
    of a kernel of ours, and ``programs`` are how many of it run. ``given`` are the numbers and words that the launch is
    given besides tensors: a CUDA graph gives it these again.
    """

    name: str
    stage: str
    backward: bool
    work: Work
    code: CodeKey | None = None
    programs: int | None = None
    given: tuple[str, ...] = ()


class HostWaits(Exception):
    """The host would wait for the device here."""


class Stages(StageFollower):
    """Which stage of a step is running, for launches to be told apart by."""

    def __init__(self) -> None:
        super().__init__()
        self.here = REST

    def moved(self, key: StageKey | None) -> None:
        self.here = key or REST


def launches_of(
    call: Callable[[], object], stages: Stages | None = None, *, zipf_exponent: float = 0.0
) -> list[Launched]:
    """Those of a call on tensors made inside ``on_hopper``.

    Args:
        stages: what the call tells of its stages; None: all are the rest.
        zipf_exponent: skew of the rows and experts that are expected to be read; 0: each is as likely.

    Raises:
        HostWaits: the host would wait for the device.
        Uncounted: nobody has said what a launch moves.
    """
    trace = _Trace(stages or Stages(), zipf_exponent)
    with ExitStack() as inside:
        inside.enter_context(triton_launch.told_instead(trace.told))
        inside.enter_context(trace)
        try:
            call()
        except RuntimeError as error:
            if any(words in str(error).lower() for words in _NO_VALUES):
                raise HostWaits(str(error)) from error
            raise
    return trace.found


@contextmanager
def on_hopper() -> Iterator[None]:
    """Tensors of device meta that are made inside take the ways that they would take on a Hopper."""
    with ExitStack() as inside:
        inside.enter_context(mock.patch.object(torch.cuda, "get_device_capability", lambda device=None: _HOPPER))
        inside.enter_context(mock.patch.object(row_passes, "_multiprocessors", lambda device: _MULTIPROCESSORS))
        # torch's fused optimizers ask whether they have a kernel for the device
        for optimizer in ("adam", "sgd"):
            ask = f"torch.optim.{optimizer}._device_dtype_check_for_fused"
            inside.enter_context(mock.patch(ask, lambda *told, **named: None))
        inside.enter_context(paths.meta_as_gpu())
        yield


def layer_without_values(spec: AnySpec) -> Layer:
    """A layer of a spec, on device meta."""
    options: dict[str, Any] = {"device": "meta", "generator": None}
    return MODULES[spec.kind](spec, 1, **options)


class _Trace(TorchDispatchMode):
    """Notes every operator of torch, and lets those of this project run as they would on the device."""

    def __init__(self, stages: Stages, zipf_exponent: float) -> None:
        super().__init__()
        self.found: list[Launched] = []
        self._stages, self._zipf_exponent = stages, zipf_exponent

    def told(
        self, kernel: Any, programs: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any]
    ) -> None:
        """Of a launch of Triton."""
        name = kernel.fn.__name__
        work = kernel_work.work_of(kernel, arguments, constants, self._distinct)
        given = _besides_tensors((programs, arguments, constants))
        self._note(name, work, given, code_key(name, constants), math.prod(programs))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        namespace, _, name = func._schema.name.partition("::")
        if namespace == "membench":
            with self:
                return body_of(name)(*args, **kwargs)
        result = None if name in _WITHOUT_META else func(*args, **kwargs)
        if (
            namespace in ("aten", "prims")
            and name not in _FREE
            and (func._schema.is_mutable or not _is_view(result, args))
        ):
            self._note(name, torch_work.work_of(func, args, kwargs, result), _besides_tensors((args, kwargs)))
        return result

    def _note(
        self,
        name: str,
        work: Work,
        given: tuple[str, ...],
        code: CodeKey | None = None,
        programs: int | None = None,
    ) -> None:
        here = self._stages.here
        self.found.append(Launched(name, here.name, here.backward, work, code, programs, given))

    def _distinct(self, rows: int, reads: int) -> float:
        return expected_unique(rows, reads, 1, self._zipf_exponent)


def _besides_tensors(given: Any) -> tuple[str, ...]:
    return tuple(repr(each) for each in tree_leaves(given) if not isinstance(each, Tensor))


def _is_view(result: Any, args: tuple[Any, ...]) -> bool:
    """Whether all that came back lies where something given does: a view, or a conversion of what was right already."""
    given = {each.untyped_storage()._cdata for each in tree_leaves(args) if isinstance(each, Tensor)}
    back = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
    return all(each.untyped_storage()._cdata in given for each in back)
