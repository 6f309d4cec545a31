"""The loss and the exactness of answers, the model being shown what is right before each token.

Exact match needs no writing of the model's own: greedy decoding writes the right answer if and only if the likeliest
token is right at every place, each time after the right tokens before it.
Letters: S sequences, T tokens, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from membench.training.task import Batch, Logits


@dataclass(frozen=True, slots=True)
class Answers:
    """Sums over questions. ``nats`` is the loss over all scored tokens, ``right`` how many of them are likeliest."""

    questions: int = 0
    exact: int = 0
    tokens: int = 0
    right: int = 0
    nats: float = 0.0

    def __add__(self, other: "Answers") -> "Answers":
        return Answers(
            self.questions + other.questions,
            self.exact + other.exact,
            self.tokens + other.tokens,
            self.right + other.right,
            self.nats + other.nats,
        )

    @property
    def nll(self) -> float | None:
        """Nats a scored token; None where there is no number (a model that diverged)."""
        return self.nats / self.tokens if self.tokens and isfinite(self.nats) else None

    @property
    def em(self) -> float | None:
        """The share of questions whose whole answer is right."""
        return self.exact / self.questions if self.questions else None

    @property
    def right_share(self) -> float | None:
        """The share of scored tokens that are right, each after the right ones."""
        return self.right / self.tokens if self.tokens else None


class Forced(NamedTuple):
    """Of each token of (S, T), 0 and False where it is not scored: its loss in nats, and whether it is likeliest."""

    nats: Tensor
    right: Tensor


@torch.no_grad()
def forced(logits: Logits, batch: Batch, device: torch.device) -> Forced:
    """A model's losses of the scored tokens, on the CPU: ``nats`` float64, ``right`` bool."""
    tokens, scored = batch.tokens.to(device), batch.scored.to(device)
    wanted = tokens[:, 1:][scored]
    given = logits(tokens[:, :-1])[scored].float()  # of scored tokens only: the rest is never copied
    nats = torch.zeros(scored.shape, dtype=torch.float64)
    right = torch.zeros(scored.shape, dtype=torch.bool)
    nats[batch.scored] = cross_entropy(given, wanted, reduction="none").double().cpu()
    right[batch.scored] = (given.argmax(-1) == wanted).cpu()
    return Forced(nats, right)


def summed(found: Forced, scored: Tensor) -> Answers:
    """The sums of a batch, ``scored`` (S, T) on the CPU."""
    return Answers(
        questions=len(scored),
        exact=int((found.right | ~scored).all(1).sum()),
        tokens=int(scored.sum()),
        right=int(found.right.sum()),
        nats=float(found.nats.sum()),
    )


def all_answered(logits: Logits, questions: Iterable[Batch], device: torch.device) -> Answers:
    """The sums of all questions."""
    return sum((summed(forced(logits, batch, device), batch.scored) for batch in questions), Answers())
