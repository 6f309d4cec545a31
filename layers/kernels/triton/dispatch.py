"""Slots sorted by expert on a GPU: a counting sort, because there are few experts.

A program of the first pass counts the slots of its part by expert. One of the second adds up the counts of the parts
before its own and of all, so that it knows where each expert's next row lies, and gives its slots their rows in order.

Letters: B tokens, K experts a token, E experts, S slots of a block.
"""
# pyright: reportArgumentType=false, reportCallIssue=false
# (Triton compiles the kernels itself; their annotations are not meant for a type checker.)

import torch
import triton
import triton.language as tl
from torch import Tensor

from membench.layers.kernels.triton.launch import launch

_HELD = 2048  # slots of a block times experts
_PARTS = 256  # at most: each program reads the counts of all


def by_expert(selected: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The fields of ``layers.kernels.dispatch.Dispatch`` for selected (B, K) of E experts."""
    (tokens, top_k), slots = selected.shape, selected.numel()
    int64 = {"dtype": torch.int64, "device": selected.device}
    token, slot, returned = (torch.empty(slots, **int64) for _ in range(3))
    starts = torch.empty(tokens, **int64)
    tile = triton.next_power_of_2(experts)
    block = max(1, _HELD // tile)
    of_part = block * max(1, triton.cdiv(slots, block * _PARTS))
    parts = max(1, triton.cdiv(slots, of_part))
    counts = torch.empty(parts, experts, dtype=torch.int32, device=selected.device)
    ends = torch.empty(experts, dtype=torch.int32, device=selected.device)
    sizes = {"slots": slots, "of_part": of_part}
    constants = {"EXPERTS": experts, "BLOCK": block, "TILE": tile, "num_warps": 4}
    selected = selected.contiguous()
    launch(selected, _count_slots, (parts,), selected, counts, **sizes, **constants)
    arguments = (selected, counts, token, ends, slot, returned, starts)
    launch(selected, _place_slots, (parts,), *arguments, parts=parts, **sizes, TOP_K=top_k, **constants)
    return token, ends, slot, returned, starts


@triton.jit
def _of_experts(selected: tl.tensor, slot: tl.tensor, end: tl.tensor, TILE: tl.constexpr) -> tl.tensor:
    """(S, E): 1 where a slot is an expert's."""
    chosen = tl.load(selected + slot, mask=slot < end, other=-1)
    return (chosen[:, None] == tl.arange(0, TILE)[None, :]).to(tl.int32)


@triton.jit(do_not_specialize=["slots", "of_part"])
def _count_slots(
    selected: tl.tensor,
    counts: tl.tensor,
    slots: tl.tensor,
    of_part: tl.tensor,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    first, expert = tl.program_id(0) * of_part, tl.arange(0, TILE)
    end = tl.minimum(first + of_part, slots)
    counted = tl.zeros([TILE], tl.int32)
    while first < end:
        counted += tl.sum(_of_experts(selected, first + tl.arange(0, BLOCK), end, TILE), 0)
        first += BLOCK
    tl.store(counts + tl.program_id(0) * EXPERTS + expert, counted, mask=expert < EXPERTS)


@triton.jit(do_not_specialize=["parts", "slots", "of_part"])
def _place_slots(
    selected: tl.tensor,
    counts: tl.tensor,
    token: tl.tensor,
    ends: tl.tensor,
    slot: tl.tensor,
    returned: tl.tensor,
    starts: tl.tensor,
    parts: tl.tensor,
    slots: tl.tensor,
    of_part: tl.tensor,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    program, expert = tl.program_id(0), tl.arange(0, TILE)
    counted, counted_before = tl.zeros([TILE], tl.int32), tl.zeros([TILE], tl.int32)
    part = 0
    while part < parts:
        at = part + tl.arange(0, BLOCK)
        inside = (at < parts)[:, None] & (expert < EXPERTS)[None, :]
        some = tl.load(counts + at[:, None] * EXPERTS + expert[None, :], mask=inside, other=0)
        counted += tl.sum(some, 0)
        counted_before += tl.sum(tl.where((at < program)[:, None], some, 0), 0)
        part += BLOCK
    end_of_expert = tl.cumsum(counted, 0)
    tl.store(ends + expert, end_of_expert, mask=(expert < EXPERTS) & (program == 0))

    following = end_of_expert - counted + counted_before  # row of each expert
    first = program * of_part
    end = tl.minimum(first + of_part, slots)
    while first < end:
        at = first + tl.arange(0, BLOCK)
        here = at < end
        of_expert = _of_experts(selected, at, end, TILE)
        earlier = tl.cumsum(of_expert, 0) - of_expert
        row = tl.sum(of_expert * (following[None, :] + earlier), 1)
        tl.store(returned + at, row.to(tl.int64), mask=here)
        tl.store(slot + row, at.to(tl.int64), mask=here)
        tl.store(token + row, (at // TOP_K).to(tl.int64), mask=here)
        tl.store(starts + at // TOP_K, at.to(tl.int64), mask=here & (at % TOP_K == 0))
        following += tl.sum(of_expert, 0)
        first += BLOCK
