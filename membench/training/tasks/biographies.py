"""Whole biographies: a name, then a sentence on each attribute, and at the end a token that says so.

Asked is a biography by its name alone: the model writes it, in phrasings of its own choice, and each sentence is looked
at by its place. So an error early on may spoil what follows, as it does where a text is written.
Letters: n biographies, A attributes, T tokens.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from membench.learning.attributes import ATTRIBUTES
from membench.learning.extent import extent_of
from membench.learning.phrasings import OF_A_LIFE
from membench.learning.tasks import LongForm
from membench.training.scoring.answers import Answers, forced, summed
from membench.training.scoring.greedy import written
from membench.training.task import Batch, Logits, Score
from membench.training.tasks.drawing import Integers, drawn
from membench.training.tasks.numbered import NumberedData, Rows, of_epoch
from membench.training.tasks.sentences import STOP_TOKEN, Sentences, vocabulary
from membench.training.tasks.stored_facts import Names, Values, bits_learnt


class Biographies(NumberedData):
    """The task ``long_form``. Attributes stand in one order; each sentence has a phrasing of its own draw.

    The loss of training counts on all tokens after the name. Of a question it is the loss of values, told in phrasings
    that training has, each after all that is right before it.
    """

    def __init__(self, config: LongForm, seed: int) -> None:
        self.names = Names(seed, config.name_tokens, config.name_symbols)
        self.values = Values(seed, 1, config.value_pool)
        self.words = vocabulary(config.value_pool, self.names.vocab_size)
        self.end = self.words.size
        self._config = config
        self._sentences = Sentences(OF_A_LIFE[: config.phrasings], self.words, 0, 1)
        super().__init__(seed, extent_of(config), config.names)
        self.description = {"facts": config.names * config.attributes, "bits_per_fact": self.values.bits}

    def samples(self, numbers: Integers) -> Rows:
        people = of_epoch(self.key("epochs"), numbers, self._config.names)
        tokens, told, _ = self._lives(people, self.key("phrasings"), numbers)
        return Rows(tokens, told[:, 1:])

    def asked(self, numbers: Integers) -> Rows:
        tokens, _, valued = self._lives(numbers, self.key("phrasings of questions"), numbers)
        return Rows(tokens, valued[:, 1:])

    def values_of(self, people: Integers) -> Integers:
        """The symbols (n, A) of all values of people."""
        facts = people[:, None] * self._config.attributes + np.arange(self._config.attributes)
        return self.values.of(facts.ravel()).reshape(facts.shape)

    def text(self, tokens: list[int]) -> str:
        return " ".join("<end>" if token == self.end else self.words.text([token]) for token in tokens)

    def _lives(
        self, people: Integers, key: int, numbers: Integers
    ) -> tuple[Integers, NDArray[np.bool_], NDArray[np.bool_]]:
        """Biographies (n, T + 1), filled up with the end; which tokens are told after the name, the end with them;
        which are values."""
        count, attributes = len(people), self._config.attributes
        phrasings = drawn(key, numbers[:, None] * attributes + np.arange(attributes), self._sentences.count)
        found = self._sentences.filled(
            phrasings.ravel(),
            np.empty((count * attributes, 0), np.int64),
            np.tile(np.arange(attributes), count),
            self.values_of(people).reshape(-1, 1),
        )
        told = found.told.reshape(count, -1)
        order = np.argsort(~told, axis=1, kind="stable")  # sentences of any length, one right after the other
        tokens, told, valued = (
            np.take_along_axis(each.reshape(count, -1), order, axis=1) for each in (found.tokens, told, found.valued)
        )
        tokens[~told] = self.end
        lengths = told.sum(1, keepdims=True)
        ended = np.arange(told.shape[1] + 1) <= lengths
        names, nothing = self.names.of(people) + self.words.first_name, np.zeros((count, 1), bool)
        before = np.zeros(names.shape, bool)
        return (
            np.concatenate([names, tokens, np.full((count, 1), self.end)], axis=1),
            np.concatenate([before, ended], axis=1),
            np.concatenate([before, valued, nothing], axis=1),
        )

    def score(self, logits: Logits, most: int, device: torch.device) -> Score:
        total, right = Answers(), np.zeros((0, self._config.attributes), bool)
        for numbers in self.asked_numbers(most, self.question_count):
            batch = self.asked(numbers).batch()
            total += summed(forced(logits, batch, device), batch.scored)
            right = np.concatenate([right, self._right(self._written(logits, batch, device), self.values_of(numbers))])
        nats = None if total.nll is None else total.nats
        return Score(
            {
                "answer_nll": total.nll,
                "em": float(right.all(1).mean()),
                "right": float(right.mean()),
                **{f"right_by_place_{place}": float(share) for place, share in enumerate(right.mean(0))},
                **bits_learnt(self._config.names * self._config.attributes, self.values.bits, nats, right.size),
            }
        )

    def _written(self, logits: Logits, batch: Batch, device: torch.device) -> list[list[int]]:
        """What a model writes to each name, up to its end."""
        known = self._config.name_tokens
        starts = torch.full((len(batch.tokens),), known)
        found = written(logits, batch.tokens[:, :-1], starts, self.length + 1 - known, device, self.end).tolist()
        return [row[: row.index(self.end)] if self.end in row else row for row in found]

    def _right(self, lives: list[list[int]], values: Integers) -> NDArray[np.bool_]:
        """Whether the sentence at each place is on its attribute and ends with its value: (n, A)."""
        attributes = [self.words.words.index(word) for word in ATTRIBUTES[: self._config.attributes]]
        found = np.zeros(values.shape, bool)
        for life, row, wanted in zip(lives, found, (values + self.words.first_value).tolist(), strict=True):
            for place, said in enumerate(_sentences(life)[: len(wanted)]):
                row[place] = said[-1:] == [wanted[place]] and attributes[place] in said
        return found


def _sentences(tokens: list[int]) -> list[list[int]]:
    """Tokens cut at the full stops."""
    found: list[list[int]] = [[]]
    for token in tokens:
        if token == STOP_TOKEN:
            found.append([])
        else:
            found[-1].append(token)
    return found
