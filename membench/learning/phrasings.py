"""How a fact is said: sentences that training has, and sentences that only questions have.

A phrasing is a list of words; those of ``SLOTS`` stand for what is told. All end with the value and a full stop.
"""

from membench.learning.attributes import ATTRIBUTES

NAME, ATTRIBUTE, VALUE = "<name>", "<attribute>", "<value>"
SLOTS = (NAME, ATTRIBUTE, VALUE)
STOP = "."

_OPENINGS = (
    "",
    "we know that",
    "records say that",
    "it is true that",
    "mind that",
    "in fact",
    "they say that",
    "once again ,",
)
_TRAINED = (
    "the <attribute> of <name> is <value>",
    "<name> has the <attribute> <value>",
    "for <name> the <attribute> is <value>",
    "<name> 's <attribute> is <value>",
    "as <attribute> <name> has <value>",
    "the <attribute> that <name> has is <value>",
    "with <name> goes the <attribute> <value>",
    "<attribute> of <name> : <value>",
)
_ASKED = (
    "as for <name> , the <attribute> is <value>",
    "of <name> we know the <attribute> : <value>",
    "it is <name> that has as <attribute> <value>",
    "say the <attribute> that goes with <name> : <value>",
)
_OF_A_LIFE = (
    "the <attribute> is <value>",
    "the <attribute> : <value>",
    "as <attribute> we have <value>",
    "for <attribute> it is <value>",
    "of <attribute> there is <value>",
    "with the <attribute> <value>",
    "by <attribute> it says <value>",
    "its <attribute> was <value>",
)


def _opened(cores: tuple[str, ...]) -> list[list[str]]:
    """All pairs of an opening and a core, so ordered that the first eight already have each of both once."""
    pairs = [
        (_OPENINGS[(turn + place) % len(_OPENINGS)], core)
        for turn in range(len(_OPENINGS))
        for place, core in enumerate(cores)
    ]
    return [[*opening.split(), *core.split(), STOP] for opening, core in pairs]


TRAINED = _opened(_TRAINED)
"""Sentences of training; a task takes the first few."""
ASKED = [[*core.split(), STOP] for core in _ASKED]
"""Sentences of questions only. Their words are those of the first eight of training, in orders that it has not."""
OF_A_LIFE = _opened(_OF_A_LIFE)
"""Sentences of a biography, which has said the name."""


def closed_vocabulary() -> list[str]:
    """Every word of every sentence but names and values, whatever a task takes of them: the full stop first."""
    said = {word for phrasing in (*TRAINED, *ASKED, *OF_A_LIFE) for word in phrasing}
    return [STOP, *sorted((said | set(ATTRIBUTES)) - {STOP, *SLOTS})]
