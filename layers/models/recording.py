"""What the layers of a model choose, recorded: a routing to replay where a layer or a block is measured by itself.

Letters: T tokens, H heads, k rows a head reads, K experts a token uses.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from membench.layers.models.model import Model


@torch.no_grad()
def recorded_choices(model: Model, batches: Iterable[Tensor]) -> dict[int, Tensor]:
    """By block, the rows (T, H, k) or experts (T, K) that its layer chooses for all tokens of batches (S, N).

    Blocks whose FFN chooses nothing are left out. The model's mode and caches are as they were afterwards.

    Raises:
        ValueError: an expert chooses tokens instead, which cannot be replayed.
    """
    found: dict[int, list[Tensor]] = {}
    trains, caches = model.training, [block.cache for block in model.blocks]
    try:
        model.eval()
        for block in model.blocks:
            block.cache = None
        for batch in batches:
            for number, block, hidden in model.block_inputs(batch):
                if (selection := block.select(hidden)) is None:
                    continue
                if block.spec.choice_of_token is None:
                    raise ValueError(f"block {number}: its experts choose tokens, which is no routing to replay")
                found.setdefault(number, []).append(selection.indices.cpu())
    finally:
        model.train(trains)
        for block, cache in zip(model.blocks, caches, strict=True):
            block.cache = cache
    return {number: torch.cat(chosen) for number, chosen in found.items()}


def save_traces(choices: dict[int, Tensor], folder: str | Path) -> dict[int, Path]:
    """One ``.npy`` file a block, as ``workload.routing: {kind: trace, trace: FILE}`` takes it.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for number, chosen in choices.items():
        written[number] = folder / f"block_{number}.npy"
        np.save(written[number], chosen.to(torch.int64).numpy(), allow_pickle=False)
    return written
