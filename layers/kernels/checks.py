"""Checks of the tensors given to operators, before a path takes their addresses.

Torch's own calls would refuse most wrong tensors, or broadcast them; a kernel would read memory outside of them.
"""

import torch
from torch import Tensor


def check_shape(name: str, tensor: Tensor, shape: tuple[int | None, ...], like: str) -> None:
    """None stands for any size. Nothing is checked of what is being compiled, where sizes may be symbols.

    Args:
        like: the shape in letters.

    Raises:
        ValueError: it has another shape.
    """
    if torch.compiler.is_compiling() or tensor.shape == shape:
        return
    fits = tensor.ndim == len(shape)
    if not fits or any(want is not None and size != want for size, want in zip(tensor.shape, shape, strict=True)):
        wanted = str(tuple("any" if size is None else size for size in shape)).replace("'", "")
        raise ValueError(f"{name} should be {like} = {wanted}, not {tuple(tensor.shape)}")


def check_integers(name: str, tensor: Tensor, *, wide: bool = True) -> None:
    """Of 32 bits or, if ``wide``, of 64.

    Raises:
        ValueError: it holds other numbers.
    """
    if tensor.dtype != torch.int32 and not (wide and tensor.dtype == torch.int64):
        raise ValueError(f"{name} should be {'int32 or int64' if wide else 'int32'}, not {tensor.dtype}")


def check_floats(name: str, tensor: Tensor) -> None:
    """Of any width.

    Raises:
        ValueError: it holds other numbers.
    """
    if not tensor.dtype.is_floating_point:
        raise ValueError(f"{name} should be floating-point numbers, not {tensor.dtype}")


def check_fp32(name: str, tensor: Tensor) -> None:
    """Of that one width.

    Raises:
        ValueError: it holds other numbers.
    """
    if tensor.dtype != torch.float32:
        raise ValueError(f"{name} should be torch.float32, not {tensor.dtype}")


def check_at_most_fp32(name: str, tensor: Tensor) -> None:
    """Of 32 bits or fewer, as what is computed in fp32 must be.

    Raises:
        ValueError: it holds other numbers.
    """
    if not tensor.dtype.is_floating_point or tensor.itemsize > torch.float32.itemsize:
        raise ValueError(f"{name} should be floating-point numbers of at most 32 bits, not {tensor.dtype}")


def check_together(**tensors: Tensor | None) -> None:
    """All on the first one's device.

    Raises:
        ValueError: one is elsewhere.
    """
    devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    first, *others = devices
    for name in others:
        if devices[name] != devices[first]:
            raise ValueError(f"{name} is on {devices[name]}, {first} on {devices[first]}")


def check_dtypes(dtype: torch.dtype, **tensors: Tensor) -> None:
    """All of the one dtype in which they are multiplied.

    Raises:
        ValueError: one is not.
    """
    for name, tensor in tensors.items():
        if tensor.dtype != dtype:
            raise ValueError(f"{name} should be {dtype} as the others, not {tensor.dtype}")
