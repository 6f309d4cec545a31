"""Questions and answers of the user's files, without any text to look them up in, scored by TriviaQA's rules.

A row is the question, a mark, the answer, a mark; the loss counts on the answer and the mark behind it. Tokens: those
of the tokenizer, then the two marks.
"""

from itertools import groupby
from typing import Any

import numpy as np
import torch

from membench.errors import UsageError
from membench.learning.extent import extent_of
from membench.learning.tasks import QAFiles
from membench.training.data_files.lines import sha256_of
from membench.training.data_files.questions import Question, questions_of
from membench.training.data_files.tokenizers import Tokens, tokens_by
from membench.training.scoring.own_words import OwnWords, answer_texts
from membench.training.task import Logits, Score
from membench.training.tasks.drawing import Integers
from membench.training.tasks.numbered import NumberedData, Rows, of_epoch

_MARKS = ("<answer>", "<end>")


class QuestionAnswering(NumberedData):
    """The task ``qa_files``. The first of a question's answers is trained, and its loss asked; what the model writes,
    as long as the longest of those at most, may be any of them.

    Answers take at most half of a row: those that are longer are left out, and counted. Questions have what the
    longest answer leaves of a row, and lose their beginning where they are longer.
    """

    def __init__(self, config: QAFiles, seed: int) -> None:
        by = tokens_by(config.tokenizer)
        self._by, self._end = by, by.vocab_size + 1
        trained = [each for path in config.train for each in questions_of(path)]
        asked = [each for path in config.asked for each in questions_of(path)]
        self._trained = _Table(trained, by, config.length, config.train)
        self._asked = _Table(asked, by, config.length, config.asked) if asked else self._trained
        super().__init__(seed, extent_of(config), len(self._asked.kept))
        texts = {each.text for each in trained}
        self.description = {
            "tokenizer": by.description,
            "trained": self._trained.counts,
            "asked": self._asked.counts,
            "asked_that_are_trained": sum(each.text in texts for each in self._asked.kept),
        }

    def samples(self, numbers: Integers) -> Rows:
        return self._trained.rows(of_epoch(self.key("epochs"), numbers, len(self._trained.kept)))

    def asked(self, numbers: Integers) -> Rows:
        return self._asked.rows(numbers)

    def text(self, tokens: list[int]) -> str:
        """The marks stand as ``<answer>`` and ``<end>``."""
        found = [
            self._by.decoded(list(run)) if known else "".join(_MARKS[token - self._by.vocab_size] for token in run)
            for known, run in groupby(tokens, lambda token: token < self._by.vocab_size)
        ]
        return " ".join(found)

    def answer(self, tokens: list[int]) -> str:
        """The text of an answer's tokens, up to its end."""
        return self.text(tokens[: tokens.index(self._end)] if self._end in tokens else tokens)

    def score(self, logits: Logits, most: int, device: torch.device) -> Score:
        total = OwnWords()
        for numbers in self.asked_numbers(most, self.question_count):
            batch = self.asked(numbers).batch()
            found, texts = answer_texts(logits, batch, device, self._asked.longest, self.answer, self._end)
            total.add(found, texts, [self._asked.kept[number].right for number in numbers.tolist()])
        return Score(total.metrics())


class _Table:
    """Questions as rows of tokens. ``kept`` are those whose answers have room; ``longest`` are the tokens of the
    longest of these with its mark.

    Raises:
        UsageError: none has.
    """

    def __init__(self, questions: list[Question], by: Tokens, length: int, files: tuple[str, ...]) -> None:
        mark, end = by.vocab_size, by.vocab_size + 1
        self.kept: list[Question] = []
        pairs = []
        for each in questions:
            answer = by.encoded(each.right[0])
            if len(answer) + 1 <= length // 2:
                self.kept.append(each)
                pairs.append((by.encoded(each.text), answer))
        if not pairs:
            problem = f"no answer is short enough; length {length} should be twice that of answers in tokens, and more"
            raise UsageError(problem, source=", ".join(files))
        self.longest = 1 + max(len(answer) for _, answer in pairs)
        room = length - 1 - self.longest
        self._tokens = np.full((len(pairs), length), end, np.min_scalar_type(end))
        self._first, self._last = np.zeros((2, len(pairs), 1), np.int64)
        for number, (question, answer) in enumerate(pairs):
            row = np.concatenate([question[-room:], [mark], answer])
            self._tokens[number, : len(row)] = row
            # the loss at the mark is of the answer's first token, that at the answer's last token of the end
            self._first[number], self._last[number] = len(row) - len(answer) - 1, len(row) - 1
        self.counts: dict[str, Any] = {
            "files": list(files),
            "sha256": sha256_of(files),
            "questions": len(questions),
            "answers_too_long": len(questions) - len(pairs),
            "questions_cut": sum(len(question) > room for question, _ in pairs),
        }

    def rows(self, numbers: Integers) -> Rows:
        places = np.arange(self._tokens.shape[1] - 1)
        scored = (places >= self._first[numbers]) & (places <= self._last[numbers])
        return Rows(self._tokens[numbers].astype(np.int64), scored)
