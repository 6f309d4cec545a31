"""A sample and a question of a task, as a person reads them."""

from itertools import groupby

import numpy as np

from membench.errors import one_line
from membench.training.tasks.numbered import NumberedData, Rows

_MAX_CHARS = 300


def examples(data: NumberedData) -> dict[str, str]:
    """The first sample of training and the first question; what is scored stands in brackets."""
    first = np.zeros(1, np.int64)
    return {"trained_example": _shown(data, data.samples(first)), "asked_example": _shown(data, data.asked(first))}


def _shown(data: NumberedData, rows: Rows) -> str:
    """The first row, up to the last token that is scored."""
    tokens, scored = rows.tokens[0].tolist(), [False, *rows.scored[0].tolist()]
    end = len(scored) - scored[::-1].index(True)
    runs = groupby(zip(tokens[:end], scored[:end], strict=True), key=lambda each: each[1])
    texts = ((counts, data.text([token for token, _ in run])) for counts, run in runs)
    found = one_line(" ".join(f"[{text}]" if counts else text for counts, text in texts))
    return found if len(found) <= _MAX_CHARS else found[: _MAX_CHARS - 1] + "…"
