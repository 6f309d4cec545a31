"""Facts as bare tokens: a name, then its value, with the loss on the value. For bits stored (arXiv 2404.05405).

Tokens: the symbols of values, then those of names, an alphabet for each place of a name.
"""

import numpy as np
import torch

from membench.learning.extent import extent_of
from membench.learning.tasks import Facts
from membench.training.scoring.answers import Answers
from membench.training.scoring.own_words import OwnWords, answer_texts
from membench.training.task import Logits, Score
from membench.training.tasks.drawing import Integers
from membench.training.tasks.exposure import exposure_of
from membench.training.tasks.made_words import made_word
from membench.training.tasks.numbered import NumberedData, Rows
from membench.training.tasks.stored_facts import Names, Values, bits_learnt, held


class BareFacts(NumberedData):
    """The task ``facts`` in its form ``bare``. A question is a fact as training shows it: its name given, its value
    asked, every fact as likely as any, however often training shows it."""

    def __init__(self, config: Facts, seed: int) -> None:
        self.names = Names(seed, config.name_tokens, config.name_symbols)
        self.values = Values(seed, config.value_tokens, config.value_pool)
        self._first_name = config.value_symbols
        super().__init__(seed, extent_of(config), config.facts)
        self._config = config
        self._told = held(self._told_of, config.facts)
        self._shown = exposure_of(seed, config.facts, config.zipf_exponent)
        self._scored = np.arange(1, self.length + 1) >= config.name_tokens
        self.description = {"facts": config.facts, "bits_per_fact": self.values.bits}

    def samples(self, numbers: Integers) -> Rows:
        return self.asked(self._shown.of(numbers))

    def asked(self, numbers: Integers) -> Rows:
        return Rows(self._told(numbers), np.tile(self._scored, (len(numbers), 1)))

    def _told_of(self, numbers: Integers) -> Integers:
        return np.concatenate([self.names.of(numbers) + self._first_name, self.values.of(numbers)], axis=1)

    def text(self, tokens: list[int]) -> str:
        """Tokens as words, of which each has its own."""
        return " ".join(map(made_word, tokens))

    def score(self, logits: Logits, most: int, device: torch.device) -> Score:
        total = OwnWords()
        for batch in self.questions(most):
            found, texts = answer_texts(logits, batch, device, self._config.value_tokens, self.text)
            total.add(found, texts, [[self.text(row)] for row in batch.tokens[:, self._config.name_tokens :].tolist()])
        return Score({**total.metrics(), **fact_bits(self._config, self.values, total.forced)})


def fact_bits(config: Facts, values: Values, asked: Answers) -> dict[str, float | None]:
    """The bits learnt of all facts; unknown where exposure is uneven, for then what is demanded is not known."""
    nats = None if config.zipf_exponent or asked.nll is None else asked.nats
    return bits_learnt(config.facts, values.bits, nats, asked.questions)
