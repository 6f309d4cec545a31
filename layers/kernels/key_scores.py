"""Scores of queries against product keys, in fp32 whatever the keys' dtype.

Scores rounded to 16 bits would tie by the dozen. Products of 16-bit numbers are exact in
fp32, so widening the keys gives what an fp32-accumulating 16-bit matrix product would; it is
done a head's half at a time, in a buffer that stays in the cache.

Letters: B tokens, H heads, n sub-keys a half, c = dk/2 columns of a half.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def key_scores(queries: Tensor, keys: Tensor, *, normalized: bool, eps: float) -> Tensor:
    """(H, 2, B, n) fp32 scores of queries (B, H, 2, c), fp32, and keys (H, 2, n, c).

    Args:
        normalized: divide each sub-key by its root mean square, sqrt(mean k² + eps).
    """
    return _KeyScores.apply(queries, keys, normalized, eps)


class _KeyScores(torch.autograd.Function):
    """Written out so that neither widened nor normalized keys are formed whole, or kept.

    With r = 1/rms(k) a normalized score is s = r·(q·k): r multiplies scores, not keys. Its
    gradient by k is r·q - k·(r²/c)·s; summed over tokens the second part needs only the sum
    of ds·s.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, normalized: bool, eps: float) -> Tensor:
        heads, _, count, columns = keys.shape
        fp32: dict[str, Any] = {"dtype": torch.float32, "device": keys.device}
        scores = torch.empty(heads, 2, queries.shape[0], count, **fp32)
        inverse_rms = torch.empty(heads, 2, 1, count, **fp32) if normalized else None
        buffer = None if keys.dtype == torch.float32 else torch.empty(count, columns, **fp32)
        for head in range(heads):
            for half in (0, 1):
                key = keys[head, half] if buffer is None else buffer.copy_(keys[head, half])
                torch.mm(queries[:, head, half], key.T, out=scores[head, half])
                if inverse_rms is not None:
                    mean_square = torch.linalg.vector_norm(key, dim=-1).square() / columns
                    inverse_rms[head, half, 0] = torch.rsqrt(mean_square + eps)
        if inverse_rms is not None:
            scores *= inverse_rms
        ctx.save_for_backward(queries, keys, scores if normalized else None, inverse_rms)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (dscores,), (queries, keys, scores, inverse_rms) = upstream, ctx.saved_tensors
        along_key = None
        if inverse_rms is not None:
            along_key = (dscores * scores).sum(dim=2) * inverse_rms[:, :, 0].square() / keys.shape[-1]  # (H, 2, n)
            dscores = dscores * inverse_rms
        # bfloat16 has the range of fp32, so gradients may be rounded to it before they are multiplied.
        key = keys if keys.dtype == torch.bfloat16 else keys.float()
        dscores = dscores.to(key.dtype)
        dqueries = dkeys = None
        if ctx.needs_input_grad[0]:
            dqueries = (dscores @ key).permute(2, 0, 1, 3).float()
        if ctx.needs_input_grad[1]:
            dkeys = dscores.transpose(-1, -2) @ queries.permute(1, 2, 0, 3).to(key.dtype)
            if along_key is not None:
                dkeys.addcmul_(key, along_key[..., None].to(key.dtype), value=-1)
            dkeys = dkeys.to(keys.dtype)
        return dqueries, dkeys, None, None
