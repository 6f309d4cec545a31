"""Models of tasks that are no models: one that knows what it has seen, and guessers, as functions of tokens."""

import torch

from membench.learning.tasks import (
    Arithmetic,
    Copy,
    Facts,
    InContextRecall,
    LongForm,
    QAFiles,
    Text,
    TwoHop,
)

CPU = torch.device("cpu")
SURE = 1e4  # a logit so far above 0 that the loss of being right is exactly 0 in float32

# Small, so that all of it can be looked at. Files are those of ``task_files``.
SMALL = {
    "bare": Facts(facts=50, name_symbols=8, value_pool=16, value_symbols=32),
    "bare_zipf": Facts(facts=50, name_symbols=8, value_pool=16, value_symbols=32, zipf_exponent=1.0),
    "sentences": Facts(form="sentences", facts=50, name_symbols=8, value_pool=16, value_symbols=32, attributes=3),
    "two_hop": TwoHop(entities=12, relations=3),
    "arithmetic": Arithmetic(digits=1, asked_share=0.3),
    "in_context_recall": InContextRecall(symbols=32, length=24, pairs=4),
    "copy": Copy(symbols=8, length=6),
    "long_form": LongForm(names=20, attributes=3, name_symbols=8, value_pool=16),
    "text": Text(files=("text.txt",), length=16, asked_share=0.2),
    "qa_files": QAFiles(train=("train.jsonl",), asked=("asked.json",), length=64),
}


def task_files(folder):
    """What the small tasks read, in a folder that is to be the working one."""
    (folder / "text.txt").write_text("".join(f"Line {n} of {n * n} is naïve.\n" for n in range(60)))
    (folder / "train.jsonl").write_text(
        '{"question": "Who wrote it?", "answer": ["Ann", "Ann B."]}\n{"question": "Where?", "answers": "In Ulm"}\n'
    )
    (folder / "asked.json").write_text(
        '{"Data": [{"Question": "When?", "Answer": {"Value": "The Monday", "Aliases": ["monday!"]}},'
        ' {"Question": "Where?", "Answer": {"Value": "Ulm", "Aliases": []}}]}'
    )


def knowing(batches, vocab_size):
    """A model that is sure of the next token after everything that these batches have, and of none after the rest."""
    after = {}
    for batch in batches:
        for row in batch.tokens.tolist():
            for place in range(1, len(row)):
                after.setdefault(tuple(row[:place]), row[place])

    def logits(tokens):
        found = torch.zeros(*tokens.shape, vocab_size)
        for number, row in enumerate(tokens.tolist()):
            for place in range(len(row)):
                known = after.get(tuple(row[: place + 1]))
                if known is not None:
                    found[number, place, known] = SURE
        return found

    return logits


def guessing(allowed, vocab_size):
    """A model to which all allowed tokens are alike, wherever they are."""
    row = torch.full((vocab_size,), -SURE)
    row[list(allowed)] = 0.0
    return lambda tokens: row.expand(*tokens.shape, vocab_size)
