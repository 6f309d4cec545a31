"""Text in lines as long as the documents' own."""

import textwrap

_WIDTH = 120


def filled(text: str, begin: str = "") -> str:
    """A paragraph, or with ``begin`` an item of a list; links and words are never cut."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )
