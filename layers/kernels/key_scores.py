"""Scores of queries against product keys, in fp32 whatever the keys' dtype.

Scores rounded to 16 bits would tie by the dozen. Products of 16-bit numbers are exact in
fp32, so widening the keys, one head's half at a time, gives what an fp32-accumulating
16-bit matrix product would.

Letters: B tokens, H heads, n sub-keys a half, c = dk/2 columns of a half.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def key_scores(queries: Tensor, keys: Tensor, normalized: bool, eps: float) -> Tensor:
    """(H, 2, B, n) fp32 scores of queries (B, H, 2, c), fp32, and keys (H, 2, n, c).

    Args:
        normalized: divide each sub-key by its root mean square first.
    """
    return _KeyScores.apply(queries, keys, normalized, eps)


class _KeyScores(torch.autograd.Function):
    """Written out so that neither widened nor normalized keys are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, normalized: bool, eps: float) -> Tensor:
        ctx.save_for_backward(queries, keys)
        ctx.normalized, ctx.eps = normalized, eps
        heads, _, count, _ = keys.shape
        scores = torch.empty(heads, 2, queries.shape[0], count, dtype=torch.float32, device=keys.device)
        widened = _Widened(keys)
        for head in range(heads):
            for half in (0, 1):
                key = widened(head, half)
                if normalized:
                    key = key * _inverse_rms(key, eps)
                torch.mm(queries[:, head, half], key.T, out=scores[head, half])
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (dscores,), (queries, keys) = upstream, ctx.saved_tensors
        dqueries = torch.empty_like(queries) if ctx.needs_input_grad[0] else None
        dkeys = torch.empty_like(keys) if ctx.needs_input_grad[1] else None
        widened = _Widened(keys)
        for head in range(keys.shape[0]):
            for half in (0, 1):
                dscore, key = dscores[head, half], widened(head, half)
                inverse = _inverse_rms(key, ctx.eps) if ctx.normalized else None
                if inverse is not None:
                    key = key * inverse
                if dqueries is not None:
                    dqueries[:, head, half] = dscore @ key
                if dkeys is not None:
                    dkey = dscore.T @ queries[:, head, half]
                    if inverse is not None:  # of k/rms(k): what lies along k is taken out again
                        dkey = inverse * (dkey - key * (dkey * key).mean(dim=-1, keepdim=True))
                    dkeys[head, half] = dkey
        return dqueries, dkeys, None, None


class _Widened:
    """One half's keys (n, c) in fp32; 16-bit ones in a buffer that the next call overwrites."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        wide = keys.dtype == torch.float32
        self.buffer = None if wide else torch.empty(keys.shape[2:], dtype=torch.float32, device=keys.device)

    def __call__(self, head: int, half: int) -> Tensor:
        key = self.keys[head, half]
        return key if self.buffer is None else self.buffer.copy_(key)


def _inverse_rms(key: Tensor, eps: float) -> Tensor:
    """(n, 1): one over the root mean square of each sub-key."""
    mean_square = torch.linalg.vector_norm(key, dim=-1, keepdim=True).square() / key.shape[1]
    return torch.rsqrt(mean_square + eps)
