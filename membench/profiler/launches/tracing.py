"""What a layer's step would launch on a GPU that need not be there, in order.

Tensors have no values, and take the ways of a GPU: all of the layers' own code runs as it would there, and asks torch
for the same. Kernels are told of in place of being launched. What the host would have to wait for has no value, and
raises.
"""

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
from membench.layers.kernels import paths, stages
from membench.layers.kernels.bodies import body_of
from membench.layers.kernels.triton import launch as triton_launch
from membench.layers.layer import Layer

_HOPPER = (9, 0)
_NO_VALUES = ("meta tensor", "register_meta")  # what torch says where it would need them
# what only sets memory aside, or asks what a tensor is
_FREE = frozenset(
    [
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


@dataclass(frozen=True, slots=True)
class Launched:
    """One launch: a kernel of this project by its name, or an operator of torch by its own.

    ``stage`` is the layer's that it is part of; None: between stages. ``touched_bytes`` are those of all tensors that
    it was given or gave back, each once: what it moves unless it reads some rows of one, or one often.
    """

    name: str
    stage: str | None
    touched_bytes: int


class HostWaits(Exception):
    """The host would wait for the device here."""


def launches_of(call: Callable[[], object]) -> list[Launched]:
    """Those of a call on tensors made inside ``on_hopper``.

    Raises:
        HostWaits: the host would wait for the device.
    """
    trace = _Trace()
    with ExitStack() as inside:
        inside.enter_context(stages.observed_by(trace))
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
        # the fused AdamW asks whether it has a kernel for the device
        inside.enter_context(mock.patch("torch.optim.adam._device_dtype_check_for_fused", lambda *told: None))
        inside.enter_context(paths.meta_as_gpu())
        yield


def layer_without_values(spec: AnySpec) -> Layer:
    """A layer of a spec, on device meta."""
    options: dict[str, Any] = {"device": "meta", "generator": None}
    return MODULES[spec.kind](spec, 1, **options)


class _Trace(TorchDispatchMode):
    """Notes every operator of torch, and lets those of this project run as they would on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Launched] = []
        self._stages: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """As an observer of stages."""
        self._stages.append(name)
        try:
            yield
        finally:
            self._stages.pop()

    def told(
        self, kernel: Any, programs: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any]
    ) -> None:
        """Of a launch of Triton."""
        del programs
        self._note(kernel.fn.__name__, [*arguments, *constants.values()])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        namespace, _, name = func._schema.name.partition("::")
        if namespace == "membench":
            with self:
                return body_of(name)(*args, **kwargs)
        result = func(*args, **kwargs)
        if (
            namespace in ("aten", "prims")
            and name not in _FREE
            and (func._schema.is_mutable or not _is_view(result, args))
        ):
            self._note(name, [args, kwargs, result])
        return result

    def _note(self, name: str, told: Any) -> None:
        tensors = {id(each): each for each in tree_leaves(told) if isinstance(each, Tensor)}
        touched = sum(each.numel() * each.element_size() for each in tensors.values())
        self.found.append(Launched(name, self._stages[-1] if self._stages else None, touched))


def _is_view(result: Any, args: tuple[Any, ...]) -> bool:
    """Whether all that came back lies where something given does: a view, or a conversion of what was right already."""
    given = {each.untyped_storage()._cdata for each in tree_leaves(args) if isinstance(each, Tensor)}
    back = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
    return all(each.untyped_storage()._cdata in given for each in back)
