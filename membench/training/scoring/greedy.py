"""What a model writes by itself, the likeliest token each time.

No cache of keys and values: a layer that is compared need not have one, and answers are short.
Letters: S sequences, T tokens, A tokens of an answer.
"""

import torch
from torch import Tensor

from membench.training.task import Logits

_WIDTH_STEP = 16  # the model sees few widths, so that a compiled one is compiled few times


@torch.no_grad()
def written(
    logits: Logits, tokens: Tensor, starts: Tensor, count: int, device: torch.device, end: int | None = None
) -> Tensor:
    """The tokens (S, A) that a model writes after prompts of any length, on the CPU.

    Args:
        logits: of the model. A later token does not change it, so prompts are padded on the right.
        tokens: (S, T): of row s the prompt is the first ``starts[s]``; what follows it is not looked at.
        starts: (S,): how long each prompt is, at least 1; ``starts + count`` is at most T + 1.
        count: A.
        device: where the model is.
        end: of an answer; it is stopped where all rows have written it. What a row has after it means nothing.
    """
    held = tokens.to(device, copy=True)
    rows, places = torch.arange(len(held), device=device), starts.to(device)
    found = torch.zeros((len(held), count), dtype=torch.int64, device=device)
    ended = torch.zeros(len(held), dtype=torch.bool, device=device)
    longest = int(starts.max())
    for number in range(count):
        width = min(held.shape[1], -(-(longest + number) // _WIDTH_STEP) * _WIDTH_STEP)
        found[:, number] = logits(held[:, :width])[rows, places + number - 1].argmax(-1)
        if end is not None:
            ended |= found[:, number] == end
            if ended.all():
                break
        if number + 1 < count:
            held[rows, places + number] = found[:, number]
    return found.cpu()
