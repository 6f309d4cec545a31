"""Two stored facts composed (arXiv 2502.03490): a's b is c, c's d is e, and asked is a's b's d, with c left unsaid.

A row is four tokens: an entity, a relation, a second relation or, for a single fact, the token ``ITSELF``, and the
entity that this leads to, whose loss counts. Tokens: ``ITSELF``, relations, entities.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from membench.learning.extent import extent_of
from membench.learning.tasks import TwoHop
from membench.training.scoring.answers import all_answered
from membench.training.task import Logits, Score
from membench.training.tasks.drawing import Integers, drawn
from membench.training.tasks.numbered import NumberedData, Rows, of_epoch
from membench.training.tasks.stored_facts import bits_learnt, value_bits
from membench.training.tasks.two_parts import TwoParts

ITSELF = 0


class TwoHopData(NumberedData):
    """The task ``two_hop``. Of the samples those of even number show single facts, each once an epoch of theirs;
    those of odd number show the taught two-hop questions alike.

    Every fact is shown by itself, so a question that is asked is of two facts that training has and of a pair of
    them that it has not.
    """

    def __init__(self, config: TwoHop, seed: int) -> None:
        self._config = config
        self._fact_count = config.entities * config.relations
        self._first_entity = 1 + config.relations
        # question number q of all: an entity, a relation, a relation
        self._pairs = TwoParts(seed, self._fact_count * config.relations, config.taught_share)
        super().__init__(seed, extent_of(config), self._pairs.rest)
        self.description = {
            "facts": self._fact_count,
            "bits_per_fact": value_bits(1, config.entities - 1),
            "two_hops_taught": self._pairs.first,
            "two_hops_asked": self._pairs.rest,
        }

    def led_to(self, entities: Integers, relations: Integers) -> Integers:
        """The entity of each fact: any but the one that it is a fact of."""
        facts = entities * self._config.relations + relations
        return (entities + 1 + drawn(self.key("facts"), facts, self._config.entities - 1)) % self._config.entities

    def samples(self, numbers: Integers) -> Rows:
        turns, composed = np.divmod(numbers, 2)
        single = self.single(of_epoch(self.key("epochs of facts"), turns, self._fact_count))
        taught = self.taught(of_epoch(self.key("epochs of two hops"), turns, self._pairs.first))
        return Rows(np.where(composed[:, None].astype(bool), taught.tokens, single.tokens), single.scored)

    def single(self, facts: Integers) -> Rows:
        """Facts of these numbers, each by itself."""
        entities, relations = np.divmod(facts, self._config.relations)
        return self._rows(entities, relations, np.full_like(facts, ITSELF), self.led_to(entities, relations))

    def taught(self, numbers: Integers) -> Rows:
        """Two-hop questions of training."""
        return self._composed(self._pairs.of_first(numbers))

    def asked(self, numbers: Integers) -> Rows:
        return self._composed(self._pairs.of_rest(numbers))

    def _composed(self, questions: Integers) -> Rows:
        facts, second = np.divmod(questions, self._config.relations)
        entities, first = np.divmod(facts, self._config.relations)
        return self._rows(entities, first, 1 + second, self.led_to(self.led_to(entities, first), second))

    def _rows(self, entities: Integers, first: Integers, second: Integers, answers: Integers) -> Rows:
        tokens = np.stack([entities + self._first_entity, 1 + first, second, answers + self._first_entity], axis=1)
        return Rows(tokens, np.tile(_LAST, (len(tokens), 1)))

    def text(self, tokens: list[int]) -> str:
        return " ".join(self._word(token) for token in tokens)

    def _word(self, token: int) -> str:
        if token == ITSELF:
            return "itself"
        return f"r{token - 1}" if token < self._first_entity else f"e{token - self._first_entity}"

    def score(self, logits: Logits, most: int, device: torch.device) -> Score:
        """Two-hop questions that training does not have; beside them those that it has, and the facts themselves,
        at most so many of each."""
        asked = all_answered(logits, self.questions(most), device)
        taught_numbers, fact_numbers = (
            self.asked_numbers(most, count) for count in (self._pairs.first, self._fact_count)
        )
        taught = all_answered(logits, (self.taught(each).batch() for each in taught_numbers), device)
        single = all_answered(logits, (self.single(each).batch() for each in fact_numbers), device)
        nats = None if single.nll is None else single.nats
        known = bits_learnt(self._fact_count, value_bits(1, self._config.entities - 1), nats, single.questions)
        beside = {"taught_nll": taught.nll, "taught_em": taught.em, "one_hop_nll": single.nll, "one_hop_em": single.em}
        return Score({**self.metrics(asked), **beside, **known})


_LAST: NDArray[np.bool_] = np.array([False, False, True])
