"""Which tokens' rows go to which expert, and which results come back to which token.

Letters: B tokens, K experts a token, E experts, C tokens an expert takes, R rows computed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from membench.layers.kernels.paths import path_of

_MOST_COUNTED = 512  # experts: of more a GPU sorts the slots sooner than it counts them


@dataclass(frozen=True, slots=True)
class Dispatch:
    """R rows sorted by expert, each a copy of a token.

    Row r of expert e, ``ends[e-1] <= r < ends[e]``, is computed from token ``token[r]`` and weighed
    by slot ``slot[r]``; token t sums the rows ``returned[starts[t]:starts[t+1]]``. A row that no
    token gets back has no slot: it weighs nothing.
    """

    token: Tensor  # (R,) int64
    ends: Tensor  # (E,) int32
    slot: Tensor  # (R,) or, of the first rows only, (B·K,) int64
    returned: Tensor  # (B·K,) or (E·C,) int64
    starts: Tensor  # (B,) int64


def by_expert(selected: Tensor, experts: int) -> Dispatch:
    """Token choice: rows for selected (B, K), within an expert in the order of the tokens.

    Raises:
        IndexError: on a CPU, if there is no such expert. On a GPU this is not checked.
    """
    tokens, k = selected.shape
    if experts <= _MOST_COUNTED and not torch.compiler.is_compiling() and path_of(selected) == "triton":
        from membench.layers.kernels.triton import dispatch as by_triton

        return Dispatch(*by_triton.by_expert(selected, experts))
    sorted_experts, slot = selected.flatten().sort(stable=True)
    if selected.device.type == "cpu" and len(slot) and not torch.compiler.is_compiling():
        lowest, highest = int(sorted_experts[0]), int(sorted_experts[-1])
        if lowest < 0 or highest >= experts:
            raise IndexError(f"expert {min(lowest, 0) or highest} of {experts}")
    returned = torch.empty_like(slot)
    returned[slot] = torch.arange(len(slot), device=slot.device)
    return Dispatch(
        token=slot // k,
        ends=_ends(sorted_experts, experts),
        slot=slot,
        returned=returned,
        starts=torch.arange(0, tokens * k, k, device=slot.device),
    )


def by_token(chosen: Tensor, tokens: int, *, some: bool = False) -> Dispatch:
    """Expert choice: rows for chosen (E, C), the tokens that each expert takes.

    ``some``: where ``chosen`` is -1 an expert takes a token of another rank, which has no row here. How many there are
    a GPU's host must wait for.
    """
    experts, capacity = chosen.shape
    token = chosen.flatten()
    slot = torch.arange(len(token), device=token.device)
    ends = torch.arange(1, experts + 1, device=token.device, dtype=torch.int32) * capacity
    if some:
        slot, ends = slot[token >= 0], (chosen >= 0).sum(1).cumsum(0, dtype=torch.int32)
        token = token[slot]
    sorted_tokens, returned = token.sort(stable=True)
    every = torch.arange(tokens, device=token.device)
    return Dispatch(
        token=token,
        ends=ends,
        slot=slot,
        returned=returned,
        starts=torch.searchsorted(sorted_tokens, every),
    )


def from_counts(counts: Tensor, tokens: int, k: int) -> Dispatch:
    """Expert parallel: ``counts`` (E,) rows of all ranks' tokens, for which this rank's tokens stand in.

    Row r is token r mod B; token t gets rows t, B + t, …, (K-1)·B + t back, which spreads its K
    slots over the experts. Reads ``counts`` on the host to know R, as an exchange between ranks must.

    Raises:
        ValueError: there are fewer rows than slots, or rows but no tokens.
    """
    rows, slots = int(counts.sum()), tokens * k
    if rows and not tokens:
        raise ValueError(f"no tokens of this rank can stand in for the {rows} rows of others")
    if rows < slots:
        raise ValueError(f"the counts sum to {rows} rows, fewer than the {slots} slots of {tokens} tokens")
    own = torch.arange(slots, device=counts.device)
    return Dispatch(
        token=torch.arange(rows, device=counts.device) % max(1, tokens),
        ends=counts.cumsum(0, dtype=torch.int32),
        slot=own.view(tokens, k).t().flatten(),
        returned=own.view(k, tokens).t().flatten(),
        starts=own[::k],
    )


def _ends(sorted_experts: Tensor, experts: int) -> Tensor:
    """(E,) int32: where each expert's rows end. Found by a search: for a histogram on a GPU the host must wait."""
    every = torch.arange(experts, device=sorted_experts.device)
    return torch.searchsorted(sorted_experts, every, right=True, out_int32=True)


def row_weights(dispatch: Dispatch, weights: Tensor) -> Tensor:
    """(R,): the weight of each row's slot, from weights (B, K) or (E, C); 0 for a row without a slot."""
    own = weights.flatten().index_select(0, dispatch.slot)
    without = len(dispatch.token) - len(own)
    return torch.nn.functional.pad(own, (0, without)) if without else own


def combine(rows: Tensor, dispatch: Dispatch, weight: Tensor | None = None) -> Tensor:
    """(B, d): each token's sum of its rows (R, d), each times its ``weight`` (R,).

    It is a gather in a fixed order, so two calls give the same bits; with atomics they would not.
    """
    returned = dispatch.returned
    scale = None if weight is None else weight.index_select(0, returned)
    return torch.nn.functional.embedding_bag(returned, rows, dispatch.starts, mode="sum", per_sample_weights=scale)
