"""Matrix products, by the fastest library that is available.

Letters: R rows, d_in and d_out widths.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import flop_registry, register_flop_formula

from membench.layers.kernels import wide_products
from membench.layers.kernels.native import few_rows
from membench.layers.kernels.native import grouped_matmul as native
from membench.layers.kernels.plain_operator import plain_operator
from membench.layers.kernels.precision import as_given, at_least_fp32, computed_as_given, operands, wants_gradient
from membench.layers.kernels.uncompiled import custom_op
from membench.layers.kernels.vendor import mkl_is_at_its_best

_WORTH_ONEDNN = 2**24  # multiplications of one thread; of several, which MKL uses badly there, all together


def project(x: Tensor, weight: Tensor) -> Tensor:
    """``linear``, differentiable.

    Raises:
        ValueError: the two have different dtypes, and autocast is off.
    """
    x, weight = operands(x=x, weight=weight)
    if not wants_gradient(x, weight):
        return _as_given_linear(x, weight)
    return _Projection.apply(x, weight)


def project_wide(x: Tensor, weight: Tensor) -> Tensor:
    """``project``, multiplied and returned in at least fp32, whatever the dtypes; autocast does not change it."""
    if x.dtype == weight.dtype and weight.is_contiguous() and _by_native(weight) and len(x):
        return _WideProjection.apply(x, weight)
    if x.dtype == weight.dtype and not torch.compiler.is_compiling() and wide_products.can_multiply(weight):
        return _MatrixUnitProjection.apply(x, weight)
    with as_given(x):
        return at_least_fp32(x) @ at_least_fp32(weight).t()


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """(R, d_out) of x (R, d_in) and weight (d_out, d_in), which may be a transposed view.

    Not differentiable: for use inside autograd functions.
    """
    if _by_few_rows(x, weight):
        return _few_rows_linear(x, weight, False)
    if _by_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    if _by_native(weight) and len(x):
        return _native_linear(x, weight, False)
    return F.linear(x.contiguous(), weight)  # of rows that lie apart MKL adds up in another order


_as_given_linear = computed_as_given(linear)


def linear_into(out: Tensor, x: Tensor, weight: Tensor) -> None:
    """``linear`` of one expert of many, written to ``out`` (R, d_out).

    oneDNN cannot write into ``out``, so its result must be copied. On matrices below half a million elements it does
    not save more time than the copy takes.
    """
    if out.is_contiguous() and _by_few_rows(x, weight):
        few_rows.linear(x, weight, out.dtype, out)
    elif weight.numel() >= 2**19 and _by_onednn(x, weight):
        out.copy_(linear(x, weight))
    else:
        torch.mm(x, weight.t(), out=out)


def linear_gradients(y_gradient: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    """(d_out, d_in), the gradient of a weight: y_gradient (R, d_out) transposed times x (R, d_in).

    In fp32 always by ``mm``: oneDNN first reorders two transposed operands, and is then not faster.
    """
    if out is None and _by_native(x):
        return _native_linear_gradients(y_gradient, x)
    return torch.mm(y_gradient.t(), x, out=out)


@custom_op("membench::linear")
def _native_linear(x: Tensor, weight: Tensor, wide: bool) -> Tensor:
    """The product in fp32 if it is to be ``wide``, else in the weight's dtype.

    Raises:
        ValueError: widths or dtypes do not fit, or a transposed view is to give a wide product.
    """
    return native.linear(x, weight, torch.float32 if wide else weight.dtype)


@_native_linear.register_fake
def _(x: Tensor, weight: Tensor, wide: bool) -> Tensor:
    return x.new_empty(len(x), len(weight), dtype=torch.float32 if wide else weight.dtype)


@custom_op("membench::linear_gradients")
def _native_linear_gradients(y_gradient: Tensor, x: Tensor) -> Tensor:
    return native.linear_gradients(y_gradient, x)


@_native_linear_gradients.register_fake
def _(y_gradient: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(y_gradient.shape[1], x.shape[1], dtype=torch.bfloat16)


_few_rows_linear = plain_operator(
    "few_rows_linear(Tensor x, Tensor weight, bool wide) -> Tensor",
    lambda x, weight, wide: few_rows.linear(x, weight, torch.float32 if wide else weight.dtype),
)


@torch.library.register_fake("membench::few_rows_linear")
def _(x: Tensor, weight: Tensor, wide: bool) -> Tensor:
    return x.new_empty(len(x), len(weight), dtype=torch.float32 if wide else weight.dtype)


class _Projection(torch.autograd.Function):
    @staticmethod
    @computed_as_given
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight)

    @staticmethod
    @computed_as_given
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (dy,), (x, weight), (of_x, of_weight) = upstream, ctx.saved_tensors, ctx.needs_input_grad
        return linear(dy, weight.t()) if of_x else None, linear_gradients(dy, x) if of_weight else None


class _WideProjection(torch.autograd.Function):
    """Operands of bf16, widened as the C++ kernels read them; the result and its gradient are fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        by = _few_rows_linear if _by_few_rows(x, weight) else _native_linear
        return by(x, weight, True)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (dy,), (x, weight), (of_x, of_weight) = upstream, ctx.saved_tensors, ctx.needs_input_grad
        dx = _native_linear(dy, weight.t(), False) if of_x else None
        return dx, _native_linear_gradients(dy, x) if of_weight else None


class _MatrixUnitProjection(torch.autograd.Function):
    """Operands of bf16, and sums of fp32 that are not rounded; their gradient is, as products with it are too."""

    @staticmethod
    @computed_as_given
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return wide_products.wide_product(x[None], weight[None])[0]

    @staticmethod
    @computed_as_given
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (dy,), (x, weight), (of_x, of_weight) = upstream, ctx.saved_tensors, ctx.needs_input_grad
        rounded = dy.to(x.dtype)
        return rounded @ weight if of_x else None, rounded.t() @ x if of_weight else None


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Not a small product: before it multiplies, oneDNN takes longer for its preparations than MKL for all of it."""
    if torch.compiler.is_compiling():  # inductor chooses its own product, and cannot compile this operator
        return False
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    return x.numel() * weight.shape[0] * torch.get_num_threads() >= _WORTH_ONEDNN and _onednn_is_faster()


def _by_native(tensor: Tensor) -> bool:
    """Whether the C++ kernels multiply by this matrix; a compiler cannot fuse anything with them, so not for one."""
    return not torch.compiler.is_compiling() and native.is_best_for(tensor)


def _by_few_rows(x: Tensor, weight: Tensor) -> bool:
    return not torch.compiler.is_compiling() and few_rows.is_best_for(x, weight)


@cache
def _onednn_is_faster() -> bool:
    """Whether oneDNN is faster than MKL in fp32: it is on every x86 processor that is not Intel's."""
    return torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available() and not mkl_is_at_its_best()


def _flops(x: Any, weight: Any, *arguments: Any, out_shape: Any = None, **others: Any) -> int:
    del arguments, out_shape, others
    return 2 * x[0] * x[1] * weight[0]


register_flop_formula([torch.ops.membench.linear, torch.ops.membench.few_rows_linear])(_flops)


@register_flop_formula(torch.ops.membench.linear_gradients)
def _native_gradient_flops(y_gradient: Any, x: Any, *arguments: Any, out_shape: Any = None, **others: Any) -> int:
    del arguments, out_shape, others
    return 2 * x[0] * x[1] * y_gradient[1]


# torch counts its other products, but not this one; and a torch without oneDNN does not have it
_onednn_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
if _onednn_linear is not None and _onednn_linear not in flop_registry:
    register_flop_formula(_onednn_linear)(_flops)
