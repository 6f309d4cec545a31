"""What torch's own operators move and multiply, told by what they are given.

An operator reads what it is given and writes what it returns, once each, unless it only makes a tensor, reads or
writes the part of one that indices choose, or sorts. One that is neither element by element nor named here is an error,
so that none is counted by accident.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from membench.layers.spec.expectation import expected_unique
from membench.profiler.launches.work import Gather, Uncounted, Work

_MADE = ("zeros", "ones", "full", "arange", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like")
_OVERWRITTEN = ("copy_", "zero_", "fill_", "normal_", "uniform_")  # their first tensor is not read
_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "_grouped_mm")
_STREAMED = (
    "_foreach_add_",
    "_softmax",
    "_softmax_backward_data",
    "_to_copy",
    "amax",
    "cat",
    "clone",
    "constant_pad_nd",
    "contiguous",
    "copy_",
    "cumsum",
    "dot",
    "fill_",
    "floor_divide",
    "linalg_vector_norm",
    "logsumexp",
    "mean",
    "native_layer_norm",
    "native_layer_norm_backward",
    "normal_",
    "repeat",
    "searchsorted",
    "sum",
    "to",
    "topk",
    "uniform_",
    "where",
    "zero_",
)


def work_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Work:
    """Of one call of an operator.

    Args:
        func: the overload, as a dispatch mode gets it.
        result: what it returned.

    Raises:
        Uncounted: it is neither element by element nor named here.
    """
    name = func._schema.name.partition("::")[2]
    given = {argument.name: value for argument, value in _bound(func, args, kwargs) if not argument.is_out}
    if name in _MADE:
        return Work(sum(map(stored_bytes, _tensors(result))))
    if name in _PRODUCTS:
        return _product(func, name, _tensors(list(given.values())), result)
    if name in _BY_INDEX:
        return _BY_INDEX[name](given, result)
    if name in _STREAMED or torch.Tag.pointwise in func.tags:
        return Work(_streamed(func, name, args, kwargs, result))
    raise Uncounted(f"torch's {name}: say in {__name__} what it moves")


def stored_bytes(tensor: Tensor) -> int:
    """Of its elements that lie in memory: those that an expanded one repeats are one."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(size for size, stride in sizes if stride or size == 0)


def product_rate(dtype: torch.dtype) -> str:
    """The rate by which matrices of a dtype are multiplied, as torch is told to."""
    if dtype == torch.float32:
        return "float32" if torch.get_float32_matmul_precision() == "highest" else "tfloat32"
    return str(dtype).removeprefix("torch.")


def _streamed(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> float:
    """Bytes: each tensor once, one that is changed where it lies twice."""
    moved, seen = 0, set[int]()
    for argument, value in _bound(func, args, kwargs):
        written = argument.alias_info is not None and argument.alias_info.is_write
        only_written = written and (argument.is_out or name in _OVERWRITTEN)
        for tensor in _tensors(value):
            moved += stored_bytes(tensor) * (written + (not only_written and id(tensor) not in seen))
            seen.add(id(tensor))
    return moved + sum(stored_bytes(tensor) for tensor in _tensors(result) if id(tensor) not in seen)


def _product(func: Any, name: str, operands: list[Tensor], result: Tensor) -> Work:
    """Each operand and the result once; of the matrices of groups those of groups that have rows.

    A group is an expert: rows (R, m) times its matrix, or its part of (n, R) times that of (R, m).
    """
    rate, moved = product_rate(operands[0].dtype), float(sum(map(stored_bytes, [*operands, result])))
    if name != "_grouped_mm":
        return Work(moved, flops=flop_registry[func._overloadpacket](*operands, out_val=result), rate=rate)
    left, right = operands[:2]
    if result.ndim == 3:
        return Work(moved, flops=2.0 * left.shape[1] * result.shape[1] * result.shape[2], rate=rate)
    without = 1 - expected_unique(len(right), len(left), 1) / len(right)
    return Work(moved - without * stored_bytes(right), flops=2.0 * result.numel() * left.shape[1], rate=rate)


def _selected(given: dict[str, Any], result: Tensor) -> Work:
    """Rows of the first dimension: as many distinct ones as there can be, as a dispatch of tokens has them."""
    (index,) = _tensors(given.get("index", given.get("indices")))
    rows, reads = len(given["self"]), index.numel()
    gather = Gather(reads, min(rows, reads), stored_bytes(result) / max(1, reads))
    return Work(float(stored_bytes(index) + stored_bytes(result)), (gather,))


def _gathered(given: dict[str, Any], result: Tensor) -> Work:
    """One element by one."""
    return Work(stored_bytes(given["index"]) + 2 * stored_bytes(result))


def _bags(given: dict[str, Any], result: Any) -> Work:
    """Rows of ``weight``, each once, as a combination of experts' rows has them."""
    weight, indices = given["weight"], given["indices"]
    distinct, row_bytes = min(len(weight), indices.numel()), weight.shape[1] * weight.element_size()
    others = [indices, given["offsets"], given.get("per_sample_weights"), _tensors(result)[0]]
    streamed = sum(stored_bytes(each) for each in others if each is not None)
    return Work(
        streamed, (Gather(indices.numel(), distinct, row_bytes),), flops=2.0 * indices.numel() * weight.shape[1]
    )


def _placed(*, added: bool, copied: bool) -> Callable[[dict[str, Any], Any], Work]:
    """Values that go where indices say.

    Args:
        added: to what is there, which is therefore read.
        copied: into a copy of the tensor.
    """

    def work(given: dict[str, Any], result: Any) -> Work:
        target, indices = given["self"], _tensors(given.get("index", given.get("indices")))
        values = next((given[name] for name in ("src", "source", "values") if name in given), None)
        changed = indices[0].numel() * target.element_size()
        if isinstance(values, Tensor):
            changed = values.numel() * target.element_size()
        read = sum(map(stored_bytes, [*indices, *_tensors(values)]))
        whole = stored_bytes(target) + stored_bytes(result) if copied else 0
        return Work(whole + read + changed * (1 + added))

    return work


def _sorted(given: dict[str, Any], result: Any) -> Work:
    """By radix: a pass over keys and places for each byte of a key, and one over the keys that counts them."""
    keys, places = _tensors(result)
    of_key, of_place = keys.element_size(), places.element_size()
    passes = of_key * 2 * (of_key + of_place)
    return Work(float(keys.numel() * (of_key + passes)), kernels=1 + of_key)


def _adamw(given: dict[str, Any], result: Any) -> Work:
    """Parameters and both moments are read and written, gradients read."""
    del result
    changed = _tensors([given[name] for name in ("self", "exp_avgs", "exp_avg_sqs")])
    return Work(float(2 * sum(map(stored_bytes, changed)) + sum(map(stored_bytes, given["grads"]))))


def _sgd(given: dict[str, Any], result: Any) -> Work:
    """Parameters are read and written, gradients read."""
    del result
    return Work(float(2 * sum(map(stored_bytes, given["self"])) + sum(map(stored_bytes, given["grads"]))))


_BY_INDEX: dict[str, Callable[[dict[str, Any], Any], Work]] = {
    "_embedding_bag": _bags,
    "_embedding_bag_forward_only": _bags,
    "_fused_adamw_": _adamw,
    "_fused_sgd_": _sgd,
    "embedding_bag": _bags,
    "gather": _gathered,
    "index": _selected,
    "index_add": _placed(added=True, copied=True),
    "index_add_": _placed(added=True, copied=False),
    "index_put_": _placed(added=False, copied=False),
    "index_select": _selected,
    "scatter": _placed(added=False, copied=True),
    "scatter_": _placed(added=False, copied=False),
    "scatter_add": _placed(added=True, copied=True),
    "scatter_add_": _placed(added=True, copied=False),
    "sort": _sorted,
}


def _bound(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Each argument of the schema that was given, with its value."""
    for number, argument in enumerate(func._schema.arguments):
        if number < len(args):
            yield argument, args[number]
        elif argument.name in kwargs:
            yield argument, kwargs[argument.name]


def _tensors(told: Any) -> list[Tensor]:
    return [each for each in tree_leaves(told) if isinstance(each, Tensor)]
