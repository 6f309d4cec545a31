"""Answers as a model writes them, scored as text by TriviaQA's rules.

Letters: S sequences, T tokens, A tokens of an answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from membench.training.scoring.answers import Answers, Forced, forced, summed
from membench.training.scoring.greedy import written
from membench.training.scoring.trivia_qa import exact_match, f1
from membench.training.task import Batch, Logits

# Right answers of each row of a batch, and the text of an answer's tokens.
Right = Sequence[Sequence[str]]
AsText = Callable[[list[int]], str]


@dataclass(slots=True)
class OwnWords:
    """Sums over questions: of the losses of right answers, and of the scores of written ones."""

    forced: Answers = field(default_factory=Answers)
    em: float = 0.0
    f1: float = 0.0

    def add(self, found: Answers, texts: Sequence[str], right: Right) -> None:
        """Of a batch: the sums of its losses, and what was written beside what would be right."""
        self.forced += found
        self.em += sum(map(exact_match, texts, right))
        self.f1 += sum(map(f1, texts, right))

    def metrics(self) -> dict[str, float | None]:
        asked = self.forced.questions
        return {
            "answer_nll": self.forced.nll,
            "em": self.em / asked if asked else None,
            "f1": self.f1 / asked if asked else None,
        }


def answer_texts(
    logits: Logits, batch: Batch, device: torch.device, longest: int, as_text: AsText, end: int | None = None
) -> tuple[Answers, list[str]]:
    """The sums of a batch's losses, and what the model writes to each question.

    Where the likeliest token is right at every place, what it would write is the right answer, and is not written
    again.

    Args:
        logits: of the model.
        batch: scored are the tokens of one answer, which stand together.
        device: where the model is.
        longest: A, so many tokens are written at most; no right answer of the task has more.
        as_text: of the tokens of an answer; it cuts them at the ``end``.
        end: the token that ends an answer.
    """
    found = forced(logits, batch, device)
    starts = batch.scored.int().argmax(1) + 1
    lengths = batch.scored.sum(1)
    places = (starts[:, None] + torch.arange(longest)).clamp(max=batch.tokens.shape[1] - 1)
    answers = batch.tokens.gather(1, places)
    wrong = _wrong(found, batch.scored)
    if len(wrong):
        answers[wrong] = written(logits, batch.tokens[wrong, :-1], starts[wrong], longest, device, end)
        lengths[wrong] = longest
    texts = [as_text(row[:length]) for row, length in zip(answers.tolist(), lengths.tolist(), strict=True)]
    return summed(found, batch.scored), texts


def _wrong(found: Forced, scored: Tensor) -> Tensor:
    """The rows whose answer is not right at every place."""
    return torch.nonzero((~found.right & scored).any(1)).flatten()
