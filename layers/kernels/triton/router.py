"""A router's choice in Triton: scores, the best experts of each token and their weights in one pass, and one back.

Shapes: ``layers.kernels.router``. A program has some tokens' lists of logits at once, in one warp where they are short,
so that keys change places by shuffles. It passes over a share of the tokens, whose loads and scores by expert it adds
up in registers; a second kernel adds up the shares, in order. Backward the scores are computed again.

Letters: B tokens, E experts, K experts a token; R tokens of a block, C experts of a tile.
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# (Triton compiles the kernels itself; their annotations are not meant for a type checker.)

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from membench.layers.kernels.triton.bitonic import top_of_rows
from membench.layers.kernels.triton.launch import launch
from membench.layers.kernels.triton.ordered_keys import NO_KEY, keys_of, order_of, places_of

_HELD = 512  # logits of a program at once
_A_WARP = 1024  # 32 registers a thread
_SHARE = 16  # tokens of a program
_PARTS, _TILE = 128, 32  # shares and experts that a program adds up at once


def route(
    logits: Tensor, bias: Tensor | None, top_k: int, sigmoid: bool, renormalize: bool, totals: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Experts (B, K), weights (B, K), shares (E,) and load (E,); the last two are empty without ``totals``."""
    tokens, experts = logits.shape
    logits = logits.contiguous()
    fp32 = {"dtype": torch.float32, "device": logits.device}
    chosen = torch.empty(tokens, top_k, dtype=torch.int64, device=logits.device)
    weights = torch.empty(tokens, top_k, **fp32)
    parts = triton.cdiv(tokens, _SHARE)
    sums = torch.empty(parts, experts, **fp32) if totals else None
    counts = torch.empty(parts, experts, dtype=torch.int32, device=logits.device) if totals else None
    listed = triton.next_power_of_2(top_k)
    constants = {"TOP_K": top_k, "LISTED": listed, "RENORMALIZE": renormalize, "SHARE": _SHARE}
    arguments = (logits, bias, chosen, weights, sums, counts)
    launch(logits, _route, (parts,), *arguments, count=tokens, **constants, **_block(experts, sigmoid))
    shares = torch.empty(experts if totals else 0, **fp32)
    load = torch.empty(experts if totals else 0, dtype=torch.int64, device=logits.device)
    if totals:
        sizes = {"EXPERTS": experts, "BLOCK": _PARTS, "TILE": _TILE}
        launch(logits, _add_parts, (triton.cdiv(experts, _TILE),), sums, counts, shares, load, parts=parts, **sizes)
    return chosen, weights, shares, load


def route_backward(
    logits: Tensor,
    chosen: Tensor,
    of_weights: Tensor | None,
    of_shares: Tensor | None,
    sigmoid: bool,
    renormalize: bool,
) -> Tensor:
    """(B, E): the gradient of logits by those of weights (B, K) and of shares (E,)."""
    tokens, experts = logits.shape
    logits, chosen = logits.contiguous(), chosen.contiguous()
    given = [None if each is None else each.contiguous() for each in (of_weights, of_shares)]
    found, block = torch.empty_like(logits), _block(experts, sigmoid)
    constants = {"count": tokens, "TOP_K": chosen.shape[1], "RENORMALIZE": renormalize, **block}
    programs = (triton.cdiv(tokens, block["ROWS"]),)
    launch(logits, _route_backward, programs, logits, chosen, *given, found, **constants)
    return found


def _block(experts: int, sigmoid: bool) -> dict[str, Any]:
    tile = triton.next_power_of_2(experts)
    rows = max(1, min(_SHARE, _HELD // tile))
    return {"EXPERTS": experts, "SIGMOID": sigmoid, "ROWS": rows, "TILE": tile, "num_warps": max(1, tile // _A_WARP)}


@triton.jit
def _scores(
    logits: tl.tensor,
    token: tl.tensor,
    here: tl.tensor,
    EXPERTS: tl.constexpr,
    SIGMOID: tl.constexpr,
    TILE: tl.constexpr,
) -> tl.tensor:
    """(R, C): those of tokens (R,), and zero past the last expert; of no token anything finite."""
    expert = tl.arange(0, TILE)
    real = (expert < EXPERTS)[None, :]
    place = token.to(tl.int64)[:, None] * EXPERTS + expert[None, :]
    values = tl.where(real, tl.load(logits + place, mask=here[:, None] & real, other=0.0), float("-inf"))
    if SIGMOID:
        return tl.sigmoid(values)
    exponentials = tl.exp(values - tl.max(values, 1)[:, None])
    return exponentials / tl.sum(exponentials, 1)[:, None]


@triton.jit(do_not_specialize=["count"])
def _route(
    logits: tl.tensor,
    bias: tl.tensor,
    chosen: tl.tensor,
    weights: tl.tensor,
    sums: tl.tensor,
    counts: tl.tensor,
    count: tl.tensor,
    TOP_K: tl.constexpr,
    LISTED: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    SHARE: tl.constexpr,
    EXPERTS: tl.constexpr,
    SIGMOID: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    part, expert, rank = tl.program_id(0), tl.arange(0, TILE), tl.arange(0, LISTED)
    real, wanted = (expert < EXPERTS)[None, :], (rank < TOP_K)[None, :]
    shares, load = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.int32)
    for first in range(0, SHARE, ROWS):
        token = part * SHARE + first + tl.arange(0, ROWS)
        here = (token < count)[:, None]
        scores = _scores(logits, token, token < count, EXPERTS, SIGMOID, TILE)
        ranked = scores
        if bias is not None:
            ranked += tl.load(bias + expert, mask=expert < EXPERTS, other=0.0)[None, :]
        keys = tl.where(real, keys_of(order_of(ranked), expert[None, :]), NO_KEY)
        best = top_of_rows(keys, LISTED, True)
        found = tl.where(wanted, places_of(best), 0).to(tl.int32)
        weight = tl.gather(scores, found, 1)
        if RENORMALIZE:
            weight = weight / tl.sum(tl.where(wanted, weight, 0.0), 1)[:, None]
        place = token.to(tl.int64)[:, None] * TOP_K + rank[None, :]
        tl.store(chosen + place, found.to(tl.int64), mask=here & wanted)
        tl.store(weights + place, weight, mask=here & wanted)
        if sums is not None:
            last = tl.min(tl.where(wanted, best, 2**63 - 1), 1)[:, None]
            load += tl.sum((here & (keys >= last)).to(tl.int32), 0)
            shares += tl.sum(tl.where(here, scores / tl.sum(scores, 1)[:, None], 0.0), 0)
    if sums is not None:
        tl.store(sums + part * EXPERTS + expert, shares, mask=expert < EXPERTS)
        tl.store(counts + part * EXPERTS + expert, load, mask=expert < EXPERTS)


@triton.jit(do_not_specialize=["parts"])
def _add_parts(
    sums: tl.tensor,
    counts: tl.tensor,
    shares: tl.tensor,
    load: tl.tensor,
    parts: tl.tensor,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    expert = tl.program_id(0) * TILE + tl.arange(0, TILE)
    of_shares, of_load = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.int64)
    part = 0
    while part < parts:
        at = part + tl.arange(0, BLOCK)
        inside = (at < parts)[:, None] & (expert < EXPERTS)[None, :]
        place = at[:, None] * EXPERTS + expert[None, :]
        of_shares += tl.sum(tl.load(sums + place, mask=inside, other=0.0), 0)
        of_load += tl.sum(tl.load(counts + place, mask=inside, other=0), 0).to(tl.int64)
        part += BLOCK
    tl.store(shares + expert, of_shares, mask=expert < EXPERTS)
    tl.store(load + expert, of_load, mask=expert < EXPERTS)


@triton.jit(do_not_specialize=["count"])
def _route_backward(
    logits: tl.tensor,
    chosen: tl.tensor,
    of_weights: tl.tensor,
    of_shares: tl.tensor,
    found: tl.tensor,
    count: tl.tensor,
    TOP_K: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    EXPERTS: tl.constexpr,
    SIGMOID: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Of q = s/S, S a sum of scores s: ds = (dq - sum of dq·q) / S."""
    token, expert = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, TILE)
    here, real = token < count, (expert < EXPERTS)[None, :]
    scores = _scores(logits, token, here, EXPERTS, SIGMOID, TILE)
    change = tl.zeros([ROWS, TILE], tl.float32)
    if of_weights is not None:
        listed = tl.zeros([ROWS, TILE], tl.int32)
        for rank in range(TOP_K):
            place = token.to(tl.int64) * TOP_K + rank
            mine = tl.load(chosen + place, mask=here, other=0)[:, None] == expert[None, :]
            listed += mine.to(tl.int32)
            change += tl.where(mine, tl.load(of_weights + place, mask=here, other=0.0)[:, None], 0.0)
        if RENORMALIZE:
            among = tl.where(listed > 0, scores, 0.0)
            total = tl.sum(among, 1)[:, None]
            total = tl.where(here[:, None], total, 1.0)
            change = tl.where(listed > 0, (change - tl.sum(change * among, 1)[:, None] / total) / total, 0.0)
    if of_shares is not None:
        given = tl.load(of_shares + expert, mask=expert < EXPERTS, other=0.0)[None, :]
        total = tl.sum(scores, 1)[:, None]
        change += (given - tl.sum(given * scores, 1)[:, None] / total) / total
    if SIGMOID:
        change *= scores * (1 - scores)
    else:
        change = scores * (change - tl.sum(change * scores, 1)[:, None])
    place = token.to(tl.int64)[:, None] * EXPERTS + expert[None, :]
    tl.store(found + place, change, mask=here[:, None] & real)
