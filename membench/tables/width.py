"""How wide output should be, where the environment says so."""

import os

_MOST_DIGITS = 5


def asked_width() -> int | None:
    """The environment variable COLUMNS, if that is a width."""
    return _cells("COLUMNS")


def drop_odd_sizes() -> None:
    """Forgets COLUMNS and LINES where they are no size: rich takes ``²`` for one, and raises."""
    for name in ("COLUMNS", "LINES"):
        if _cells(name) is None:
            os.environ.pop(name, None)


def _cells(name: str) -> int | None:
    text = os.environ.get(name, "")
    known = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) or None if known else None
