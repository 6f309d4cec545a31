"""Parts of a document between marker comments, which a program writes and a reader does not see.

<!-- made by benchmarks.documents: NAME -->
…
<!-- end of NAME -->
"""

import re
from collections.abc import Callable, Mapping

from membench.errors import UsageError, suggestion

_PART = re.compile(
    r"(?P<begin><!-- made by benchmarks\.documents: (?P<name>[\w-]+) -->\n)"
    r"(?P<body>.*?)(?P<end><!-- end of (?P=name) -->)",
    re.DOTALL,
)
_BEGIN = re.compile(r"<!-- made by benchmarks\.documents: ([\w-]+) -->")

Maker = Callable[[str], str | None]  # from what stands there; None leaves it as it is


def with_parts(document: str, makers: Mapping[str, Maker]) -> str:
    """The document with each part as its maker has it.

    Raises:
        UsageError: a part that nobody makes, or that has no end.
    """
    whole = parts_of(document)
    for name in _BEGIN.findall(document):
        if name not in whole:
            raise UsageError(f"a part without its end, <!-- end of {name} -->", key=name)
        if name not in makers:
            raise UsageError(f"a part that nobody makes; {suggestion(name, makers)}", key=name)

    def remade(found: re.Match[str]) -> str:
        made = makers[found["name"]](found["body"])
        body = found["body"] if made is None else f"\n{made.strip()}\n\n"
        return found["begin"] + body + found["end"]

    return _PART.sub(remade, document)


def parts_of(document: str) -> dict[str, str]:
    """What stands in each part now."""
    return {found["name"]: found["body"] for found in _PART.finditer(document)}
