"""The forward pass, and the choice of rows alone, beside torch's own calls on the same weights and scores."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.memory_step_parts.against_public import INPUTS
from benchmarks.memory_step_parts.answers import Answer, Findings, Sizes
from benchmarks.memory_step_parts.processes import short_of_memory
from benchmarks.memory_step_parts.turns import Timed, take_turns, timed
from benchmarks.public_memory import with_weights_of
from membench.layers.memory import Memory
from membench.layers.operators.retrieval import ProductKeyTopK
from membench.layers.spec import ProductKeyTopKSpec

_FORWARD_GOAL, _TOP_K_GOAL = 1.5, 3.0
_TOLERANCE = 1e-5  # of fp32 sums in another order
_TIED = 0.01  # of the tokens, at most


def compare_forwards(sizes: Sizes) -> Findings:
    """Both forwards on one table, and both ways to choose on the same scores.

    Raises:
        ArithmeticError: they do not compute the same.
    """
    forward = "forward, einsum + three topk + F.embedding_bag over ours"
    top_k = f"top-k without products, three torch.topk over ours, k {sizes.top_k}, n {sizes.spec().sub_keys}"
    if reason := short_of_memory(1.1 * sizes.table_bytes() + 2**30):
        missing = Answer(forward, goal=_FORWARD_GOAL, reason=reason)
        return Findings([missing, Answer(top_k, goal=_TOP_K_GOAL, reason=reason)])
    with torch.no_grad():
        answers = [
            _compared(forward, *_forwards(sizes), sizes, _FORWARD_GOAL),
            _compared(top_k, *_choices(sizes), sizes, _TOP_K_GOAL),
        ]
    return Findings(answers)


def _compared(
    question: str, ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], inputs: list[Tensor],
    sizes: Sizes, goal: float,
) -> Answer:  # fmt: skip
    check_same(question, ours(inputs[0]), theirs(inputs[0]))
    ways = {"theirs": _on(theirs, inputs), "ours": _on(ours, inputs)}
    seconds = take_turns(ways, sizes.quick_rounds)
    return Answer.of_times(question, seconds["theirs"], seconds["ours"], ("theirs", "ours"), goal=goal)


def check_same(question: str, ours: Tensor, theirs: Tensor) -> None:
    """Token by token: where two rows are as good but for rounding, either may be the last that is chosen.

    Raises:
        ArithmeticError: more tokens differ than that explains.
    """
    errors = (ours.double() - theirs.double()).flatten(1).square().mean(
        dim=1
    ).sqrt() / theirs.double().square().mean().sqrt()
    different = int((errors > _TOLERANCE).sum())
    if different > _TIED * len(errors):
        raise ArithmeticError(f"{question}: {different} of {len(errors)} tokens differ, by up to {errors.max():.2g}")


def _on(call: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> Timed:
    return timed(lambda number: call(inputs[number % len(inputs)]))


def _forwards(sizes: Sizes) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], list[Tensor]]:
    layer = Memory(sizes.spec())
    return layer, with_weights_of(layer), [torch.randn(sizes.tokens, sizes.model_dim) for _ in range(INPUTS)]


def _choices(sizes: Sizes) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], list[Tensor]]:
    """Operators that give the softmax weights of the chosen rows, for scores (B, H, 2, n)."""
    spec = ProductKeyTopKSpec(num_keys=sizes.num_keys, heads=sizes.heads, top_k=sizes.top_k)
    ours, theirs = ProductKeyTopK(spec), ProductKeyTopK(spec.model_copy(update={"path": "plain"}))
    draw = torch.Generator().manual_seed(0)
    return ours, theirs, [ours.draw(sizes.tokens, draw)[0] for _ in range(INPUTS)]
