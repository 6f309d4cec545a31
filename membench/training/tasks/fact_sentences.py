"""Facts in sentences of many phrasings, asked in phrasings that training does not have: recall as arXiv 2412.09764
means it.

Training has the loss on all words of a sentence, as text has. A question is a sentence up to its value.
"""

import numpy as np
import torch

from membench.learning.extent import extent_of
from membench.learning.phrasings import ASKED, TRAINED
from membench.learning.tasks import Facts
from membench.training.scoring.own_words import OwnWords, answer_texts
from membench.training.task import Logits, Score
from membench.training.tasks.bare_facts import fact_bits
from membench.training.tasks.drawing import Integers, drawn
from membench.training.tasks.exposure import exposure_of
from membench.training.tasks.numbered import NumberedData, Rows
from membench.training.tasks.sentences import Filled, Sentences, vocabulary
from membench.training.tasks.stored_facts import Names, Values, held


class FactSentences(NumberedData):
    """The task ``facts`` in its form ``sentences``. Fact i is of name i // attributes and attribute i % attributes.

    A sample shows a fact in a phrasing of its own draw; the fact's question is always in the same one.
    """

    def __init__(self, config: Facts, seed: int) -> None:
        self.names = Names(seed, config.name_tokens, config.name_symbols)
        self.values = Values(seed, config.value_tokens, config.value_pool)
        self.words = vocabulary(config.value_symbols, self.names.vocab_size)
        phrasings = [*TRAINED[: config.phrasings], *ASKED]
        self._sentences = Sentences(phrasings, self.words, config.name_tokens, config.value_tokens)
        super().__init__(seed, extent_of(config), config.facts)
        self._config = config
        self._names = held(self.names.of, -(-config.facts // config.attributes))
        self._values = held(self.values.of, config.facts)
        self._shown = exposure_of(seed, config.facts, config.zipf_exponent)
        self.description = {"facts": config.facts, "bits_per_fact": self.values.bits}

    def samples(self, numbers: Integers) -> Rows:
        phrasings = drawn(self.key("phrasings"), numbers, self._config.phrasings)
        filled = self._said(phrasings, self._shown.of(numbers))
        return Rows(filled.tokens, filled.told[:, 1:])

    def asked(self, numbers: Integers) -> Rows:
        phrasings = self._config.phrasings + drawn(self.key("phrasings of questions"), numbers, len(ASKED))
        filled = self._said(phrasings, numbers)
        return Rows(filled.tokens, filled.valued[:, 1:])

    def text(self, tokens: list[int]) -> str:
        return self.words.text(tokens)

    def _said(self, phrasings: Integers, facts: Integers) -> Filled:
        owners, attributes = np.divmod(facts, self._config.attributes)
        return self._sentences.filled(phrasings, self._names(owners), attributes, self._values(facts))

    def score(self, logits: Logits, most: int, device: torch.device) -> Score:
        total = OwnWords()
        for batch in self.questions(most):
            found, texts = answer_texts(logits, batch, device, self._config.value_tokens, self.text)
            right = batch.tokens[:, 1:][batch.scored].reshape(len(batch.tokens), -1)
            total.add(found, texts, [[self.text(row)] for row in right.tolist()])
        return Score({**total.metrics(), **fact_bits(self._config, self.values, total.forced)})
